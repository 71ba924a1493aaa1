-- Purpose: every pool in the tiers of these campaigns.
SELECT DISTINCT c.workspace_id, CAST(p AS bigint) AS pool_id
FROM gateway.v_campaign AS c
CROSS JOIN LATERAL jsonb_array_elements(c.tiers) AS t
CROSS JOIN LATERAL jsonb_array_elements_text(t -> 'pools') AS p
WHERE (c.workspace_id, c.campaign_id) IN (
    SELECT * FROM unnest(CAST(:workspaces AS bigint[]), CAST(:campaigns AS bigint[])))
