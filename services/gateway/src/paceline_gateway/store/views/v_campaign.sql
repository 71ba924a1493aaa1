-- Purpose: campaigns with their tiers: [[pool_id, ...], ...] in order.
CREATE OR REPLACE VIEW gateway.v_campaign WITH (security_barrier) AS
SELECT
    c.workspace_id, c.campaign_id, c.name, c.type, c.status, c.start_at, c.version, c.stickiness,
    coalesce(t.tiers, '[]'::jsonb) AS tiers
FROM gateway.campaign AS c
LEFT JOIN LATERAL (
    SELECT jsonb_agg(tier.pools ORDER BY tier.tier) AS tiers
    FROM (
        SELECT ct.tier, jsonb_agg(ct.pool_id ORDER BY ct.position) AS pools
        FROM gateway.campaign_tier AS ct
        WHERE ct.workspace_id = c.workspace_id AND ct.campaign_id = c.campaign_id
        GROUP BY ct.tier
    ) AS tier
) AS t ON true;
