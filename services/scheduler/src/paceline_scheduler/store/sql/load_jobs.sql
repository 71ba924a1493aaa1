-- Purpose: the queued ones among jobs named by id, for the pacing store.
SELECT j.workspace_id, j.job_id, j.campaign_id,
    CASE WHEN j.sticky THEN j.mailbox_id END AS mailbox_id,
    floor(extract(epoch FROM j.due_at) * 1000)::bigint AS due_ms
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:jobs AS bigint[])) AS u(workspace_id, job_id)
JOIN scheduler.send_job AS j USING (workspace_id, job_id)
WHERE j.state = 'queued' AND j.campaign_id IS NOT NULL
ORDER BY j.due_at, j.job_id
