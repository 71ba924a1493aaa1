-- Purpose: campaigns as enrollment needs them, with whether each has steps and how hard it may press
-- a lead; their gates are locked FOR SHARE, so that a stop either comes after this transaction or is seen by it.
WITH gates AS MATERIALIZED (
    SELECT g.ref FROM scheduler.gate AS g
    WHERE (g.workspace_id, g.scope, g.ref) IN (
        SELECT u.workspace_id, 'campaign', u.campaign_id
        FROM unnest(CAST(:workspaces AS bigint[]), CAST(:campaigns AS bigint[]))
            AS u(workspace_id, campaign_id))
    ORDER BY g.workspace_id, g.ref
    FOR SHARE OF g
)
SELECT c.workspace_id, c.campaign_id, c.status, c.start_at, c.tiers, f.position AS first_step,
    c.allow_parallel, c.allow_parallel OR CAST(w.contact ->> 'parallel_campaigns' AS boolean) AS parallel,
    CAST(w.contact ->> 'min_days_between' AS integer) AS min_days
FROM gateway.v_campaign AS c
JOIN gateway.v_workspace AS w USING (workspace_id)
LEFT JOIN LATERAL (
    SELECT min(s.position) AS position FROM gateway.v_step AS s
    WHERE s.workspace_id = c.workspace_id AND s.campaign_id = c.campaign_id
) AS f ON true
WHERE (c.workspace_id, c.campaign_id) IN (
        SELECT * FROM unnest(CAST(:workspaces AS bigint[]), CAST(:campaigns AS bigint[])))
    AND (SELECT count(*) FROM gates) >= 0
