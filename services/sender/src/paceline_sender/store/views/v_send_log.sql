-- Purpose: every try of every job with the provider's answer; `outcome` is null while one is
-- under way. `text` is the server's own words, or our reason when no server spoke.
-- `variant` is what a claimed job drew. Reader: gateway.
CREATE OR REPLACE VIEW sender.v_send_log WITH (security_barrier) AS
SELECT a.workspace_id, a.job_id, a.enrollment_id, a.campaign_id, a.step, a.mailbox_id,
       a.attempt_no, a.provider, a.outcome, a.outcome_class, a.code, a.status,
       coalesce(a.text, a.reason) AS text, a.message_id, a.started_at, a.finished_at, m.variant
FROM sender.attempt AS a
LEFT JOIN sender.message AS m
    ON m.workspace_id = a.workspace_id AND m.job_id = a.job_id AND a.claimed_at IS NOT NULL;
