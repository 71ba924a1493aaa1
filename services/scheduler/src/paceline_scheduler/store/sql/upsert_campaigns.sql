-- Purpose: make what decisions know of campaigns what their settings say. Their gates are held, and
-- the settings are read since: an older version never replaces a newer.
INSERT INTO scheduler.campaign_policy AS p (
    workspace_id, campaign_id, version, type, min_health, stickiness, reassign_after_s, esp_match,
    allow_parallel)
SELECT c.workspace_id, c.campaign_id, c.version,
    CASE c.type WHEN 'cold' THEN 1 WHEN 'nurture' THEN 2 ELSE 4 END, c.min_health, c.stickiness,
    c.reassign_after_s, c.esp_match, c.allow_parallel
FROM gateway.v_campaign AS c
WHERE c.campaign_id = ANY (CAST(:campaigns AS bigint[]))
ORDER BY c.workspace_id, c.campaign_id
ON CONFLICT (workspace_id, campaign_id) DO UPDATE
SET version = excluded.version, type = excluded.type, min_health = excluded.min_health,
    stickiness = excluded.stickiness, reassign_after_s = excluded.reassign_after_s,
    esp_match = excluded.esp_match, allow_parallel = excluded.allow_parallel
WHERE p.version <= excluded.version
