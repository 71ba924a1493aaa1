-- Purpose: the message of a job, if there is one.
SELECT job_id, enrollment_id, campaign_id, step, mailbox_id
FROM sender.v_message
WHERE workspace_id = :workspace AND job_id = :job
