-- Purpose: a workspace's queued jobs with after < due_at <= until, in the order they are sent in.
SELECT j.workspace_id, j.job_id, j.campaign_id,
    CASE WHEN j.sticky THEN j.mailbox_id END AS mailbox_id,
    floor(extract(epoch FROM j.due_at) * 1000)::bigint AS due_ms
FROM scheduler.send_job AS j
WHERE j.workspace_id = :workspace AND j.state = 'queued' AND j.campaign_id IS NOT NULL
    AND j.due_at > CAST(:after AS timestamptz) AND j.due_at <= CAST(:until AS timestamptz)
ORDER BY j.due_at, j.job_id
