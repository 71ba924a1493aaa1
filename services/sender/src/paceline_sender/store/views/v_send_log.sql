-- Purpose: every try of every job with the provider's answer; `outcome` is null while one is
-- under way. `text` is the server's own words, or our reason when no server spoke. Reader: gateway.
CREATE OR REPLACE VIEW sender.v_send_log WITH (security_barrier) AS
SELECT workspace_id, job_id, enrollment_id, campaign_id, step, mailbox_id, attempt_no, provider,
       outcome, outcome_class, code, status, coalesce(text, reason) AS text, message_id,
       started_at, finished_at
FROM sender.attempt;
