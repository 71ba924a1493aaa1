-- Purpose: the message of ours that comes first in `ids` (Message-IDs, most telling first).
SELECT m.job_id, m.enrollment_id, m.campaign_id, m.step, m.mailbox_id
FROM sender.v_message AS m
WHERE m.workspace_id = :workspace AND m.message_id = ANY (CAST(:ids AS text[]))
ORDER BY array_position(CAST(:ids AS text[]), m.message_id)
LIMIT 1
