-- Purpose: what a forecast needs of a workspace's campaigns: those in rotation, those
-- that are to start at a time of theirs, and the one asked for (:campaign), open or not; with the
-- delay of each of their steps.
SELECT c.campaign_id, c.type, c.min_health, c.esp_match, c.tiers, c.start_at, c.status,
    c.status NOT IN ('stopped', 'finished', 'archived') AS may_run,
    (
        SELECT jsonb_object_agg(s.position, s.delay_s) FROM gateway.v_step AS s
        WHERE s.workspace_id = c.workspace_id AND s.campaign_id = c.campaign_id
    ) AS delays
FROM gateway.v_campaign AS c
JOIN gateway.v_workspace AS w USING (workspace_id)
WHERE c.workspace_id = :workspace AND (
    c.campaign_id = :campaign
    OR (
        c.status NOT IN ('draft', 'stopped', 'finished', 'archived') AND w.is_active
        AND NOT EXISTS (
            SELECT 1 FROM scheduler.suspension AS s
            WHERE s.workspace_id = c.workspace_id AND s.closed_at IS NULL
                AND (s.until IS NULL OR s.until > clock_timestamp())
                AND (s.scope, s.ref) = ('campaign', c.campaign_id)
                AND NOT (c.status = 'scheduled' AND s.reason = 'not_started'))
    )
)
ORDER BY c.campaign_id
