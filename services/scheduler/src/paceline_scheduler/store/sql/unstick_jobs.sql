-- Purpose: let any mailbox of their campaign send these queued jobs, which keep their place (due_at);
-- whoever sends next is the enrollment's mailbox from then on. Rows are locked; the pacer is told.
WITH asked AS MATERIALIZED (
    SELECT *
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[]), CAST(:jobs AS bigint[])
    ) AS u(workspace_id, enrollment_id, job_id)
), freed AS (
    UPDATE scheduler.send_job AS j
    SET sticky = false, mailbox_id = NULL, pool_id = NULL, reason = 'reassigned',
        updated_at = clock_timestamp()
    FROM asked AS a
    WHERE (j.workspace_id, j.job_id) = (a.workspace_id, a.job_id)
), moved AS (
    UPDATE scheduler.enrollment AS e
    SET mailbox_id = NULL, pool_id = NULL, updated_at = clock_timestamp()
    FROM asked AS a
    WHERE (e.workspace_id, e.enrollment_id) = (a.workspace_id, a.enrollment_id)
)
INSERT INTO scheduler.pace_change (workspace_id, jobs)
SELECT a.workspace_id, array_agg(a.job_id ORDER BY a.job_id) FROM asked AS a GROUP BY 1
