-- Purpose: make sure that gates exist; without its row nothing is claimed.
INSERT INTO scheduler.gate (workspace_id, scope, ref)
SELECT DISTINCT u.workspace_id, u.scope, u.ref
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:scopes AS text[]), CAST(:refs AS bigint[]))
    AS u(workspace_id, scope, ref)
ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING
