-- Purpose: how to read one mailbox; no row when it is gone or switched off.
SELECT m.version, m.email, m.imap, m.credential
FROM gateway.v_mailbox_read AS m
WHERE m.workspace_id = :workspace AND m.mailbox_id = :mailbox AND m.is_active
  AND m.imap IS NOT NULL
