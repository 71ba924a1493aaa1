-- Purpose: hold gates, so that nothing within them is claimed until this transaction ends.
SELECT 1
FROM (
    SELECT DISTINCT u.workspace_id, u.scope, u.ref
    FROM unnest(CAST(:workspaces AS bigint[]), CAST(:scopes AS text[]), CAST(:refs AS bigint[]))
        AS u(workspace_id, scope, ref)
    ORDER BY 1, 2, 3
) AS w
CROSS JOIN LATERAL (
    SELECT 1 FROM scheduler.gate AS g
    WHERE (g.workspace_id, g.scope, g.ref) = (w.workspace_id, w.scope, w.ref)
    FOR NO KEY UPDATE OF g
) AS locked
