-- Purpose: the messages of campaigns, positions from 1. `variants` are [{"name", "weight", "subject"
-- (null: the step's), "text", "html"}, ...]; without any the step's own content is sent.
-- `attachments` are ids of `v_attachment` in the order in which they are sent.
CREATE OR REPLACE VIEW gateway.v_step WITH (security_barrier) AS
SELECT
    s.workspace_id, s.campaign_id, s.step_id, s.position, s.delay_s, s.subject, s.text_template,
    s.html_template, s.version, s.variants,
    ARRAY(
        SELECT a.attachment_id
        FROM gateway.step_attachment AS a
        WHERE a.workspace_id = s.workspace_id AND a.step_id = s.step_id
        ORDER BY a.position
    ) AS attachments
FROM gateway.step AS s;
