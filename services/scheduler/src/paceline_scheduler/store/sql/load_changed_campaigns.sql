-- Purpose: campaigns of the named workspaces, some or all (:campaigns NULL), whose rules are not
-- those that decisions know.
SELECT c.workspace_id, c.campaign_id
FROM gateway.v_campaign AS c
LEFT JOIN scheduler.campaign_policy AS p USING (workspace_id, campaign_id)
WHERE (CAST(:campaigns AS bigint[]) IS NULL OR c.campaign_id = ANY (CAST(:campaigns AS bigint[])))
    AND (CASE c.type WHEN 'cold' THEN 1 WHEN 'nurture' THEN 2 ELSE 4 END, c.version, c.min_health,
        c.stickiness, c.reassign_after_s, c.esp_match, c.allow_parallel)
    IS DISTINCT FROM (p.type, p.version, p.min_health, p.stickiness, p.reassign_after_s,
        p.esp_match, p.allow_parallel)
