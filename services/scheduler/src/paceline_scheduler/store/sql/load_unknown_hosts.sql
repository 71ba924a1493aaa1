-- Purpose: a batch of recipient domains whose host is not known, or known for longer than :kept, in
-- workspaces with a campaign that matches by host or a rule for one. A look-up that failed is
-- repeated after :retry.
SELECT a.workspace_id, a.address_id AS domain_id, d.domain
FROM scheduler.address AS a
CROSS JOIN LATERAL (
    SELECT split_part(l.email, '@', 2) AS domain FROM scheduler.lead AS l
    WHERE l.workspace_id = a.workspace_id AND l.domain_id = a.address_id
    LIMIT 1
) AS d
WHERE a.kind = 'domain'
    AND a.workspace_id IN (
        SELECT p.workspace_id FROM scheduler.campaign_policy AS p WHERE p.esp_match <> 'off'
        UNION
        SELECT r.workspace_id FROM gateway.v_shaping_rule AS r WHERE r.pattern LIKE 'host:%')
    AND (a.host_at IS NULL
        OR a.host_at < clock_timestamp() - CASE WHEN a.host IS NULL
            THEN CAST(:retry AS interval) ELSE CAST(:kept AS interval) END)
LIMIT :most
