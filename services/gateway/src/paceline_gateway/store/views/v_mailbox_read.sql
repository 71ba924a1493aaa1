-- Purpose: of connected mailboxes, what reply reads with; `credential` is sealed for scope read.
-- `oauth` tells the reading leg's grant without its secrets; `imap` is null where an API is read.
-- `credential_version` grows when the leg is connected anew: tokens of an older one are void.
-- `app_secret` is the newest secret of the grant's OAuth app, sealed for scope read.
CREATE OR REPLACE VIEW gateway.v_mailbox_read WITH (security_barrier) AS
SELECT
    workspace_id, mailbox_id, version, email, is_active, imap, read_credential AS credential,
    kind, read_oauth AS oauth, read_credential_version AS credential_version,
    (SELECT a.read_sealed FROM gateway.oauth_secret AS a
        WHERE (a.workspace_id, a.provider, a.client_id)
            = (m.workspace_id, m.read_oauth ->> 'provider', m.read_oauth ->> 'client_id')
    ) AS app_secret
FROM gateway.mailbox AS m
WHERE deleted_at IS NULL;
