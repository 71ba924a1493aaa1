-- Purpose: note whose mail servers recipient domains have; NULL: the look-up failed, what is known
-- stays. Out: the domains whose host is another now (unknown counts as 0).
UPDATE scheduler.address AS a
SET host = coalesce(u.host, a.host), host_at = clock_timestamp()
FROM (
    SELECT a.workspace_id, a.address_id, a.host AS was, u.host
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:domains AS bigint[]), CAST(:hosts AS smallint[])
    ) AS u(workspace_id, address_id, host)
    JOIN scheduler.address AS a USING (workspace_id, address_id)
    ORDER BY a.workspace_id, a.address_id
    FOR NO KEY UPDATE OF a
) AS u
WHERE (a.workspace_id, a.address_id) = (u.workspace_id, u.address_id)
RETURNING a.workspace_id, a.address_id AS domain_id, coalesce(u.was, 0) AS was,
    coalesce(a.host, 0) AS host
