-- Purpose: make the budgets and gates of mailboxes what their settings say. The caller holds their
-- gates and has read the settings since. New rules hold from the next compiled stretch on: the
-- current one is dropped, so that nothing is leased by the old.
WITH given AS MATERIALIZED (
    SELECT *
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]), CAST(:domains AS text[]),
        CAST(:versions AS bigint[]), CAST(:actives AS boolean[]), CAST(:zones AS text[]),
        CAST(:cadences AS bigint[]), CAST(:jitter_mins AS bigint[]),
        CAST(:jitter_maxes AS bigint[]), CAST(:graces AS bigint[]), CAST(:hour_caps AS integer[]),
        CAST(:ceilings AS integer[]), CAST(:outstandings AS integer[]),
        CAST(:floors AS boolean[]), CAST(:types AS smallint[]), CAST(:accounts AS bigint[]),
        CAST(:hosts AS smallint[]), CAST(:policies AS text[]), CAST(:providers AS text[]),
        CAST(:countries AS text[]), CAST(:regions AS text[]), CAST(:connected AS timestamptz[])
    ) AS u(workspace_id, mailbox_id, domain, version, is_active, tz, cadence_ms, jitter_min_ms,
        jitter_max_ms, grace_ms, hour_cap, ceiling, max_outstanding, health_floor, types,
        account_ref, host, policy, provider, country, region, connected_at)
), gates AS (
    INSERT INTO scheduler.gate (workspace_id, scope, ref)
    SELECT DISTINCT g.workspace_id, v.scope, v.ref
    FROM given AS g
    CROSS JOIN LATERAL (VALUES ('workspace', g.workspace_id), ('mailbox', g.mailbox_id),
        ('domain', hashtextextended(g.domain, 0))) AS v(scope, ref)
    ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING
), shards AS (
    INSERT INTO scheduler.shard (workspace_id, epoch)
    SELECT DISTINCT workspace_id, 0 FROM given ORDER BY 1
    ON CONFLICT DO NOTHING
)
INSERT INTO scheduler.mailbox_budget AS b (
    workspace_id, mailbox_id, domain, domain_ref, version, is_active, inactive_since, tz,
    cadence_ms, jitter_min_ms, jitter_max_ms, grace_ms, hour_cap, ceiling, max_outstanding,
    health_floor, types, account_ref, host, policy, provider, country, region, connected_at, epoch)
SELECT g.workspace_id, g.mailbox_id, g.domain, hashtextextended(g.domain, 0), g.version,
    g.is_active, CASE WHEN NOT g.is_active THEN clock_timestamp() END, g.tz, g.cadence_ms,
    g.jitter_min_ms, g.jitter_max_ms, g.grace_ms, g.hour_cap, g.ceiling, g.max_outstanding,
    g.health_floor, g.types, g.account_ref, g.host, CAST(g.policy AS jsonb), g.provider,
    g.country, g.region, g.connected_at,
    coalesce((SELECT s.epoch FROM scheduler.shard AS s WHERE s.workspace_id = g.workspace_id), 0)
FROM given AS g
ORDER BY g.workspace_id, g.mailbox_id
ON CONFLICT (workspace_id, mailbox_id) DO UPDATE
SET domain = excluded.domain, domain_ref = excluded.domain_ref, version = excluded.version,
    is_active = excluded.is_active,
    inactive_since = CASE WHEN NOT excluded.is_active
        THEN coalesce(b.inactive_since, clock_timestamp()) END,
    tz = excluded.tz, cadence_ms = excluded.cadence_ms, jitter_min_ms = excluded.jitter_min_ms,
    jitter_max_ms = excluded.jitter_max_ms, grace_ms = excluded.grace_ms,
    hour_cap = excluded.hour_cap, ceiling = excluded.ceiling,
    max_outstanding = excluded.max_outstanding, health_floor = excluded.health_floor,
    types = excluded.types, account_ref = excluded.account_ref, host = excluded.host,
    policy = excluded.policy, provider = excluded.provider, country = excluded.country,
    region = excluded.region, connected_at = excluded.connected_at, revision = b.revision + 1,
    open_from = 'infinity', open_until = 'infinity'
WHERE b.version <= excluded.version
