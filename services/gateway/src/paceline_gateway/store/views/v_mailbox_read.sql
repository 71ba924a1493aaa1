-- Purpose: of connected mailboxes, what reply reads with; `credential` is sealed for scope read.
-- `oauth` tells the reading leg's grant without its secrets; `imap` is null where an API is read.
-- `credential_version` grows when the leg is connected anew: tokens of an older one are void.
CREATE OR REPLACE VIEW gateway.v_mailbox_read WITH (security_barrier) AS
SELECT
    workspace_id, mailbox_id, version, email, is_active, imap, read_credential AS credential,
    kind, read_oauth AS oauth, read_credential_version AS credential_version
FROM gateway.mailbox
WHERE deleted_at IS NULL;
