-- Purpose: campaigns that may be served (they have not ended and no gate of their own or of the
-- workspace is closed) with their tiers and what they ask of a mailbox.
SELECT c.campaign_id, c.tiers, p.type, p.min_health, p.esp_match
FROM gateway.v_campaign AS c
JOIN gateway.v_workspace AS w USING (workspace_id)
JOIN scheduler.campaign_policy AS p USING (workspace_id, campaign_id)
WHERE c.workspace_id = :workspace
    AND c.status NOT IN ('draft', 'stopped', 'finished', 'archived') AND w.is_active
    AND NOT EXISTS (
        SELECT 1 FROM scheduler.suspension AS s
        WHERE s.workspace_id = c.workspace_id AND s.closed_at IS NULL
            AND (s.until IS NULL OR s.until > clock_timestamp())
            AND (s.scope, s.ref) IN (('workspace', c.workspace_id), ('campaign', c.campaign_id)))
ORDER BY c.campaign_id
