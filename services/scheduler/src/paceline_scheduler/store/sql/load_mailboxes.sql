-- Purpose: the settings of some mailboxes, or of all of the named workspaces (:mailboxes NULL), and
-- beside them, as `was_*`, what the budget holds of them now.
SELECT m.workspace_id, m.mailbox_id, m.email, m.domain, m.is_active, m.version, m.policy,
    scheduler.known_zone(m.timezone) AS timezone, m.provider, m.country, m.region, m.connected_at,
    b.mailbox_id IS NOT NULL AS is_known, b.domain AS was_domain, b.is_active AS was_active,
    b.version AS was_version, b.policy AS was_policy, b.tz AS was_tz, b.provider AS was_provider,
    b.country AS was_country, b.region AS was_region, b.connected_at AS was_connected_at,
    b.cadence_ms, b.jitter_min_ms, b.jitter_max_ms, b.grace_ms, b.hour_cap, b.ceiling,
    b.health_floor, b.max_outstanding, b.types, b.account_ref, b.host, b.health,
    CASE WHEN b.health_version > 0 THEN b.stage END AS stage
FROM gateway.v_mailbox AS m
LEFT JOIN scheduler.mailbox_budget AS b USING (workspace_id, mailbox_id)
WHERE CAST(:mailboxes AS bigint[]) IS NULL OR m.mailbox_id = ANY (CAST(:mailboxes AS bigint[]))
ORDER BY m.workspace_id, m.mailbox_id
