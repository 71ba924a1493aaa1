-- Purpose: campaigns with their tiers, and whether each may be served: it has not ended and no gate
-- of its own or of the workspace is closed.
SELECT c.campaign_id, c.tiers,
    c.status NOT IN ('draft', 'stopped', 'finished', 'archived') AND w.is_active
    AND NOT EXISTS (
        SELECT 1 FROM scheduler.suspension AS s
        WHERE s.workspace_id = c.workspace_id AND s.closed_at IS NULL
            AND (s.until IS NULL OR s.until > clock_timestamp())
            AND (s.scope, s.ref) IN (('workspace', c.workspace_id), ('campaign', c.campaign_id))
    ) AS is_open
FROM gateway.v_campaign AS c
JOIN gateway.v_workspace AS w USING (workspace_id)
WHERE c.workspace_id = :workspace
