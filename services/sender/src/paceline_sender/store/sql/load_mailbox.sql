-- Purpose: what a mailbox submits with. Out: one row, or none when it is disconnected.
SELECT m.workspace_id, m.mailbox_id, m.email, s.smtp, s.credential
FROM gateway.v_mailbox AS m
JOIN gateway.v_mailbox_send AS s USING (workspace_id, mailbox_id)
WHERE (m.workspace_id, m.mailbox_id) = (CAST(:workspace AS bigint), CAST(:mailbox AS bigint))
