-- Purpose: the order and delays of campaigns' steps, read when the next one is decided.
SELECT s.workspace_id, s.campaign_id, s.position, s.delay_s FROM gateway.v_step AS s
WHERE (s.workspace_id, s.campaign_id) IN (
    SELECT * FROM unnest(CAST(:workspaces AS bigint[]), CAST(:campaigns AS bigint[])))
