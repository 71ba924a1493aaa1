-- Purpose: what the recipient may answer to or return. Written with the claim, so that an
-- early DSN finds it. `submitted_at` is null until a provider accepted. Readers: bounce, reply.
CREATE OR REPLACE VIEW sender.v_message WITH (security_barrier) AS
SELECT workspace_id, job_id, enrollment_id, campaign_id, step, mailbox_id, message_id,
       provider_message_id, subject, references_, submitted_at
FROM sender.message;
