-- Purpose: submissions in doubt, open and settled, with all that was found out about them.
-- `evidence` holds {at, source, finding, text}, newest last; `text` is a server's own words and may
-- quote an address. `next_look_at` is null before the first look and once settled. Reader: gateway.
CREATE OR REPLACE VIEW sender.v_doubt WITH (security_barrier) AS
SELECT workspace_id, job_id, fence_no, mailbox_id, enrollment_id, campaign_id, step, provider,
       message_id, has_draft, since, looks, next_look_at, destroying_since, evidence, settled_at,
       settled_as, settled_by, why
FROM sender.doubt
WHERE workspace_id = ANY (
    string_to_array(NULLIF(current_setting('app.workspace_ids', true), ''), ',')::bigint[]
);

-- Purpose: the same for the whole installation. Reader: admin.
CREATE OR REPLACE VIEW sender.v_doubt_all WITH (security_barrier) AS
SELECT workspace_id, job_id, fence_no, mailbox_id, enrollment_id, campaign_id, step, provider,
       message_id, has_draft, since, looks, next_look_at, destroying_since, evidence, settled_at,
       settled_as, settled_by, why
FROM sender.doubt;
