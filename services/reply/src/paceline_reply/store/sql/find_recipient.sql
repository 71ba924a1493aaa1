-- Purpose: whom a job went to.
SELECT job_id, enrollment_id, campaign_id, step, mailbox_id, address_hash
FROM scheduler.v_job_recipient
WHERE workspace_id = :workspace AND job_id = :job
