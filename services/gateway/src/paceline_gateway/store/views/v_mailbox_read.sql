-- Purpose: of connected mailboxes, what reply reads with; `credential` is sealed for scope read.
CREATE OR REPLACE VIEW gateway.v_mailbox_read WITH (security_barrier) AS
SELECT workspace_id, mailbox_id, version, email, is_active, imap, imap_credential AS credential
FROM gateway.mailbox
WHERE deleted_at IS NULL;
