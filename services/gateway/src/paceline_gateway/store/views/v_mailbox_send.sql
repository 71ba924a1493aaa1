-- Purpose: of connected mailboxes, what the sender submits with; `credential` is sealed for scope send.
-- `oauth` tells the sending leg's grant without its secrets; `smtp` is null where an API takes the mail.
-- `credential_version` grows when the leg is connected anew: tokens of an older one are void.
-- `app_secret` is the newest secret of the grant's OAuth app, sealed for scope send.
CREATE OR REPLACE VIEW gateway.v_mailbox_send WITH (security_barrier) AS
SELECT
    workspace_id, mailbox_id, version, smtp, send_credential AS credential,
    kind, send_oauth AS oauth, send_credential_version AS credential_version,
    (SELECT a.send_sealed FROM gateway.oauth_secret AS a
        WHERE (a.workspace_id, a.provider, a.client_id)
            = (m.workspace_id, m.send_oauth ->> 'provider', m.send_oauth ->> 'client_id')
    ) AS app_secret
FROM gateway.mailbox AS m
WHERE deleted_at IS NULL;
