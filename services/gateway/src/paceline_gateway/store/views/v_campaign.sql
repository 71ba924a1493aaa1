-- Purpose: campaigns with their tiers in order: [{"pools": [pool_id, ...], "after_s": int|null}, ...].
-- A job that waited `after_s` past its due time may leave for the next tier; null: never.
CREATE OR REPLACE VIEW gateway.v_campaign WITH (security_barrier) AS
SELECT
    c.workspace_id, c.campaign_id, c.name, c.type, c.status, c.start_at, c.version, c.stickiness,
    coalesce(t.tiers, '[]'::jsonb) AS tiers,
    c.min_health, c.reassign_after_s, c.esp_match, c.allow_parallel,
    c.track_opens, c.track_clicks
FROM gateway.campaign AS c
LEFT JOIN LATERAL (
    SELECT
        jsonb_agg(
            jsonb_build_object('pools', tier.pools, 'after_s', c.tier_after_s[tier.tier])
            ORDER BY tier.tier
        ) AS tiers
    FROM (
        SELECT ct.tier, jsonb_agg(ct.pool_id ORDER BY ct.position) AS pools
        FROM gateway.campaign_tier AS ct
        WHERE ct.workspace_id = c.workspace_id AND ct.campaign_id = c.campaign_id
        GROUP BY ct.tier
    ) AS tier
) AS t ON true;
