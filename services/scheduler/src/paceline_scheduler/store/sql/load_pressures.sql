-- Purpose: how hard these campaigns may press a lead.
SELECT c.workspace_id, c.campaign_id,
    c.allow_parallel OR CAST(w.contact ->> 'parallel_campaigns' AS boolean) AS parallel,
    CAST(w.contact ->> 'min_days_between' AS integer) AS min_days
FROM gateway.v_campaign AS c
JOIN gateway.v_workspace AS w USING (workspace_id)
WHERE (c.workspace_id, c.campaign_id) IN (
    SELECT * FROM unnest(CAST(:workspaces AS bigint[]), CAST(:campaigns AS bigint[])))
