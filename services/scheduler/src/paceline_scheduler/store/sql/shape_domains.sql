-- Purpose: give recipient domains the budget of their rule: their own, else their host's, else the
-- one for all. In: all rules of the workspaces (hash of a domain, or host, or neither: for all);
-- the domains to look at, or NULL for every one that is known. A budget whose rule has changed
-- begins its spreading anew; with :stale its waiting jobs are still spread by the older rule.
WITH rule AS MATERIALIZED (
    SELECT *
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:hashes AS bytea[]), CAST(:hosts AS smallint[]),
        CAST(:spacings AS bigint[]), CAST(:caps AS integer[])
    ) AS r(workspace_id, hash, host, spacing_ms, day_cap)
), zone AS MATERIALIZED (
    SELECT w.workspace_id, scheduler.known_zone(w.timezone) AS tz FROM gateway.v_workspace AS w
    WHERE w.workspace_id = ANY (CAST(:named AS bigint[]))
), met AS MATERIALIZED (
    SELECT a.workspace_id, a.address_id AS domain_id, z.tz,
        x.hash IS NOT NULL OR h.host IS NOT NULL OR o.workspace_id IS NOT NULL AS is_ruled,
        CASE WHEN x.hash IS NOT NULL THEN x.spacing_ms WHEN h.host IS NOT NULL THEN h.spacing_ms
            ELSE o.spacing_ms END AS spacing_ms,
        CASE WHEN x.hash IS NOT NULL THEN x.day_cap WHEN h.host IS NOT NULL THEN h.day_cap
            ELSE o.day_cap END AS day_cap
    FROM scheduler.address AS a
    JOIN zone AS z USING (workspace_id)
    LEFT JOIN rule AS x ON (x.workspace_id, x.hash) = (a.workspace_id, a.hash)
    LEFT JOIN rule AS h
        ON (h.workspace_id, h.host) = (a.workspace_id, a.host) AND h.hash IS NULL
    LEFT JOIN rule AS o
        ON o.workspace_id = a.workspace_id AND o.hash IS NULL AND o.host IS NULL
    WHERE a.kind = 'domain' AND (CAST(:domains AS bigint[]) IS NULL
        OR (a.workspace_id, a.address_id) IN (
            SELECT * FROM unnest(
                CAST(:domain_workspaces AS bigint[]), CAST(:domains AS bigint[]))))
), wanted AS MATERIALIZED (
    SELECT m.workspace_id, m.domain_id, m.tz, coalesce(m.spacing_ms, 0) AS spacing_ms, m.day_cap
    FROM met AS m
    LEFT JOIN scheduler.recipient_budget AS b USING (workspace_id, domain_id)
    WHERE CASE WHEN b.domain_id IS NULL THEN m.is_ruled
        ELSE (b.tz, b.spacing_ms, b.day_cap)
            IS DISTINCT FROM (m.tz, coalesce(m.spacing_ms, 0), m.day_cap) END
    ORDER BY m.workspace_id, m.domain_id
)
INSERT INTO scheduler.recipient_budget AS b (
    workspace_id, domain_id, tz, spacing_ms, day_cap, is_stale)
SELECT w.*, CAST(:stale AS boolean) FROM wanted AS w
ON CONFLICT (workspace_id, domain_id) DO UPDATE
SET tz = excluded.tz, spacing_ms = excluded.spacing_ms, day_cap = excluded.day_cap,
    next_at = least(b.next_at, clock_timestamp() + interval '1 ms' * excluded.spacing_ms),
    cursor_at = '-infinity', cursor_used = 0, retry_at = '-infinity',
    is_stale = b.is_stale OR excluded.is_stale
