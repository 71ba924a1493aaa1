-- Purpose: make sure that addresses exist, in one order for all.
INSERT INTO scheduler.address (workspace_id, kind, hash)
SELECT DISTINCT u.workspace_id, u.kind, u.hash
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:kinds AS text[]), CAST(:hashes AS bytea[]))
    AS u(workspace_id, kind, hash)
ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING
