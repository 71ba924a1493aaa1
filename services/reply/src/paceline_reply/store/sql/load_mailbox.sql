-- Purpose: how to read one mailbox; no row when it is gone.
SELECT m.email, m.is_active, m.kind, m.imap, m.oauth, m.credential, m.credential_version
FROM gateway.v_mailbox_read AS m
WHERE m.workspace_id = :workspace AND m.mailbox_id = :mailbox AND m.credential IS NOT NULL
