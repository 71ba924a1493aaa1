-- Purpose: what a mailbox submits with. Out: one row, or none when it is disconnected.
SELECT m.workspace_id, m.mailbox_id, m.email AS from_email, s.kind AS provider, s.smtp, s.oauth,
    s.credential, s.credential_version, s.version AS settings_version
FROM gateway.v_mailbox AS m
JOIN gateway.v_mailbox_send AS s USING (workspace_id, mailbox_id)
WHERE (m.workspace_id, m.mailbox_id) = (CAST(:workspace AS bigint), CAST(:mailbox AS bigint))
