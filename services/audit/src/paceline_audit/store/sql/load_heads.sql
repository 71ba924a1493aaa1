-- Purpose: the last record of each chain; no row for a chain that has none.
SELECT h.workspace_id, h.seq, h.digest
FROM unnest(CAST(:workspaces AS bigint[])) AS w(workspace_id)
CROSS JOIN LATERAL (
    SELECT r.workspace_id, r.seq, r.digest FROM audit.audit_record AS r
    WHERE r.workspace_id = w.workspace_id ORDER BY r.seq DESC LIMIT 1
) AS h
