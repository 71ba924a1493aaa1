-- Bounces that count: refusals within the submission and trusted failure reports.
-- Readers: gateway, sender.
CREATE OR REPLACE VIEW bounce.v_bounce WITH (security_barrier) AS
SELECT workspace_id, bounce_id, job_id, enrollment_id, mailbox_id, bounce_class, status, source,
       diagnostic, occurred_at
FROM bounce.bounce
WHERE state = 'counted';
