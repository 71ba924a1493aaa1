-- Purpose: tell the pacer of queued first messages to these recipient domains, in campaigns that match
-- by host: their host is another now.
INSERT INTO scheduler.pace_change (workspace_id, jobs)
SELECT q.workspace_id, array_agg(q.job_id ORDER BY q.place)
FROM (
    SELECT j.workspace_id, j.job_id,
        row_number() OVER (PARTITION BY j.workspace_id ORDER BY j.due_at, j.job_id) AS place
    FROM unnest(CAST(:workspaces AS bigint[]), CAST(:domains AS bigint[]))
        AS u(workspace_id, domain_id)
    JOIN scheduler.lead AS l USING (workspace_id, domain_id)
    JOIN scheduler.enrollment AS e ON (e.workspace_id, e.lead_id) = (l.workspace_id, l.lead_id)
    JOIN scheduler.send_job AS j ON (j.workspace_id, j.job_id) = (e.workspace_id, e.job_id)
    JOIN scheduler.campaign_policy AS p
        ON (p.workspace_id, p.campaign_id) = (j.workspace_id, j.campaign_id)
    WHERE j.state = 'queued' AND NOT j.sticky AND p.esp_match <> 'off'
) AS q
GROUP BY q.workspace_id, (q.place - 1) / 1000
