-- Purpose: enrollments whose current job these sent jobs are, locked; a repeated event finds none.
SELECT e.workspace_id, e.enrollment_id, e.campaign_id, e.step, e.state, e.job_id
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[]), CAST(:jobs AS bigint[]))
    AS u(workspace_id, enrollment_id, job_id)
JOIN scheduler.enrollment AS e USING (workspace_id, enrollment_id, job_id)
WHERE e.finished_at IS NULL OR e.mailbox_id IS NULL
ORDER BY e.workspace_id, e.enrollment_id
FOR NO KEY UPDATE OF e
