-- Purpose: take back leases that nobody claimed: not_after lies more than :margin behind.
-- Fence + 1, capacity given back, the pacer told. Returns how many. Jobs being claimed are skipped.
WITH expired AS MATERIALIZED (
    SELECT j.workspace_id, j.job_id, j.fence
    FROM scheduler.send_job AS j
    WHERE j.state = 'reserved'
        AND j.not_after < clock_timestamp() - CAST(:margin AS interval)
    ORDER BY j.workspace_id, j.job_id
    LIMIT :most
    FOR UPDATE OF j SKIP LOCKED
), gathered AS (
    SELECT array_agg(workspace_id) AS workspaces, array_agg(job_id) AS jobs,
        array_agg(fence) AS fences, count(*) AS expired
    FROM expired
)
SELECT g.expired, scheduler.requeue_jobs(g.workspaces, g.jobs, g.fences, 'lease_expired')
FROM gathered AS g
