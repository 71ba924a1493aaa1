-- Purpose: messages of ours by job or Message-ID, the one that we gave or what a provider made of
-- it, with the hash of their recipient.
SELECT m.job_id, m.enrollment_id, m.campaign_id, m.step, m.mailbox_id, m.message_id,
       m.sent_message_id, r.address_hash
FROM sender.v_message AS m
LEFT JOIN scheduler.v_job_recipient AS r
  ON r.workspace_id = m.workspace_id AND r.job_id = m.job_id
WHERE m.workspace_id = :workspace
  AND (m.job_id = ANY (CAST(:jobs AS bigint[])) OR m.message_id = ANY (CAST(:ids AS text[]))
       OR m.sent_message_id = ANY (CAST(:ids AS text[])))
