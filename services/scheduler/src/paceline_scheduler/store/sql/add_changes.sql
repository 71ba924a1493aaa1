-- Purpose: tell the pacer that gates, routes or mailboxes may have changed.
INSERT INTO scheduler.pace_change (workspace_id, scope, ref)
SELECT DISTINCT u.workspace_id, u.scope, u.ref
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:scopes AS text[]), CAST(:refs AS bigint[]))
    AS u(workspace_id, scope, ref)
