-- Purpose: what one mailbox sent to one address since an instant, newest first.
SELECT m.job_id, m.enrollment_id, m.campaign_id, m.step, m.mailbox_id, m.subject
FROM scheduler.v_job_recipient AS r
JOIN sender.v_message AS m ON m.workspace_id = r.workspace_id AND m.job_id = r.job_id
WHERE r.workspace_id = :workspace AND r.mailbox_id = :mailbox
  AND r.address_hash = ANY (CAST(:hashes AS bytea[]))
  AND m.submitted_at > :since
ORDER BY m.submitted_at DESC
LIMIT 50
