-- Purpose: what a mailbox submits with. Out: one row, or none when it is disconnected.
SELECT m.workspace_id, m.mailbox_id, m.email, s.kind, s.version, s.smtp, s.oauth, s.credential,
    s.credential_version
FROM gateway.v_mailbox AS m
JOIN gateway.v_mailbox_send AS s USING (workspace_id, mailbox_id)
WHERE (m.workspace_id, m.mailbox_id) = (CAST(:workspace AS bigint), CAST(:mailbox AS bigint))
