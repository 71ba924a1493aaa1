-- Purpose: the message of ours that comes first in `ids` (Message-IDs, most telling first), by the
-- id that we gave it or the one that its provider made of it.
SELECT m.job_id, m.enrollment_id, m.campaign_id, m.step, m.mailbox_id
FROM sender.v_message AS m
WHERE m.workspace_id = :workspace
  AND (m.message_id = ANY (CAST(:ids AS text[])) OR m.sent_message_id = ANY (CAST(:ids AS text[])))
ORDER BY least(array_position(CAST(:ids AS text[]), m.message_id),
               array_position(CAST(:ids AS text[]), m.sent_message_id))
LIMIT 1
