-- Purpose: make sure that addresses exist, in one order for all. In: each once.
-- Out: those that did not exist; until this transaction ends nobody else sees or locks them.
INSERT INTO scheduler.address AS a (workspace_id, kind, hash)
SELECT u.workspace_id, u.kind, u.hash
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:kinds AS text[]), CAST(:hashes AS bytea[]))
    AS u(workspace_id, kind, hash)
ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING
RETURNING a.workspace_id, a.address_id, a.hash
