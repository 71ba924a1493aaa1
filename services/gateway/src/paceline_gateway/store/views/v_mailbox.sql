-- Purpose: settings of mailboxes without secrets, for everyone who paces, sends or reads.
-- `policy` holds only what was set; absent keys have the scheduler's defaults. The workspace's
-- region says nothing about a mailbox in another country. `headers` are [[name, value], ...], after
-- the workspace's. `tracking_domain` is null where opens and clicks are never tracked.
CREATE OR REPLACE VIEW gateway.v_mailbox WITH (security_barrier) AS
SELECT
    m.workspace_id, m.mailbox_id, m.email, m.domain, m.display_name, m.reply_to, m.kind,
    m.is_active, coalesce(m.timezone, w.timezone) AS timezone, m.policy, m.version,
    coalesce(m.provider_set, m.provider_found) AS provider,
    coalesce(m.policy ->> 'country', w.country) AS country,
    coalesce(
        m.policy ->> 'region',
        CASE WHEN coalesce(m.policy ->> 'country', w.country) = w.country THEN w.region END
    ) AS region,
    m.connected_at, m.signature_text, m.signature_html, m.headers, m.return_path, m.encoding,
    m.tracking_domain
FROM gateway.mailbox AS m
JOIN gateway.workspace AS w USING (workspace_id);
