-- Purpose: of connected mailboxes, what the sender submits with; `credential` is sealed for scope send.
CREATE OR REPLACE VIEW gateway.v_mailbox_send WITH (security_barrier) AS
SELECT workspace_id, mailbox_id, version, smtp, smtp_credential AS credential
FROM gateway.mailbox
WHERE deleted_at IS NULL;
