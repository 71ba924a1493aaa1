-- Purpose: the shaping rules of these workspaces.
SELECT r.workspace_id, r.pattern, ceil(r.spacing_s * 1000)::bigint AS spacing_ms, r.daily_max
FROM gateway.v_shaping_rule AS r
WHERE r.workspace_id = ANY (CAST(:workspaces AS bigint[]))
