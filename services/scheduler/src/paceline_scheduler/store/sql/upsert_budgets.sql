-- Purpose: make the budgets and gates of mailboxes what their settings say; an older version
-- changes nothing. New rules hold from the next compiled stretch on: the current one is dropped.
WITH given AS MATERIALIZED (
    SELECT *
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]), CAST(:domains AS text[]),
        CAST(:versions AS bigint[]), CAST(:actives AS boolean[]), CAST(:zones AS text[]),
        CAST(:cadences AS bigint[]), CAST(:jitter_mins AS bigint[]),
        CAST(:jitter_maxes AS bigint[]), CAST(:graces AS bigint[]), CAST(:day_caps AS integer[]),
        CAST(:hour_caps AS integer[]), CAST(:windows AS text[])
    ) AS u(workspace_id, mailbox_id, domain, version, is_active, tz, cadence_ms, jitter_min_ms,
        jitter_max_ms, grace_ms, day_cap, hour_cap, windows)
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
    workspace_id, mailbox_id, domain, domain_ref, version, is_active, tz, cadence_ms,
    jitter_min_ms, jitter_max_ms, grace_ms, day_cap, hour_cap, windows, epoch)
SELECT g.workspace_id, g.mailbox_id, g.domain, hashtextextended(g.domain, 0), g.version,
    g.is_active, scheduler.known_zone(g.tz), g.cadence_ms, g.jitter_min_ms, g.jitter_max_ms,
    g.grace_ms, g.day_cap, g.hour_cap, CAST(NULLIF(g.windows, 'null') AS jsonb),
    coalesce((SELECT s.epoch FROM scheduler.shard AS s WHERE s.workspace_id = g.workspace_id), 0)
FROM given AS g
ORDER BY g.workspace_id, g.mailbox_id
ON CONFLICT (workspace_id, mailbox_id) DO UPDATE
SET domain = excluded.domain, domain_ref = excluded.domain_ref, version = excluded.version,
    is_active = excluded.is_active, tz = excluded.tz, cadence_ms = excluded.cadence_ms,
    jitter_min_ms = excluded.jitter_min_ms, jitter_max_ms = excluded.jitter_max_ms,
    grace_ms = excluded.grace_ms, day_cap = excluded.day_cap, hour_cap = excluded.hour_cap,
    windows = excluded.windows, open_from = 'infinity', open_until = 'infinity'
WHERE b.version < excluded.version
