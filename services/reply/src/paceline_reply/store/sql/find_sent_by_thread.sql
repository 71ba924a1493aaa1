-- Purpose: the newest message of ours in a conversation, as one mailbox's provider names it.
SELECT m.job_id, m.enrollment_id, m.campaign_id, m.step, m.mailbox_id
FROM sender.v_message AS m
WHERE m.workspace_id = :workspace AND m.thread_mailbox_id = :mailbox AND m.thread_id = :thread
ORDER BY m.submitted_at DESC NULLS LAST
LIMIT 1
