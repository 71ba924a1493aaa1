-- Purpose: note who sent the current step, and create the next one's job where there is a next one.
-- In: enrollments whose rows are locked, the job just sent, the next position and when it is due
-- (NULL: none). The follow-up is for the mailbox, and pool, that sent step 1.
WITH advanced AS MATERIALIZED (
    SELECT u.workspace_id, u.enrollment_id, u.position, u.due_at, u.traceparent, e.campaign_id,
        coalesce(e.mailbox_id, j.mailbox_id) AS mailbox_id,
        coalesce(e.pool_id, j.pool_id) AS pool_id,
        CASE WHEN u.position IS NOT NULL AND e.state = 'active'
            THEN nextval(pg_get_serial_sequence('scheduler.send_job', 'job_id')) END AS next_job
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[]), CAST(:jobs AS bigint[]),
        CAST(:positions AS integer[]), CAST(:dues AS timestamptz[]),
        CAST(:traceparents AS text[])
    ) AS u(workspace_id, enrollment_id, job_id, position, due_at, traceparent)
    JOIN scheduler.enrollment AS e USING (workspace_id, enrollment_id)
    JOIN scheduler.send_job AS j ON (j.workspace_id, j.job_id) = (u.workspace_id, u.job_id)
    WHERE j.state = 'sent'
), moved AS (
    UPDATE scheduler.enrollment AS e
    SET step = CASE WHEN a.next_job IS NULL THEN e.step ELSE a.position END,
        job_id = coalesce(a.next_job, e.job_id), mailbox_id = a.mailbox_id, pool_id = a.pool_id,
        updated_at = clock_timestamp()
    FROM advanced AS a
    WHERE (e.workspace_id, e.enrollment_id) = (a.workspace_id, a.enrollment_id)
), jobs AS (
    INSERT INTO scheduler.send_job (
        workspace_id, job_id, enrollment_id, campaign_id, step, due_at, mailbox_id, pool_id,
        sticky, traceparent)
    SELECT a.workspace_id, a.next_job, a.enrollment_id, a.campaign_id, a.position, a.due_at,
        a.mailbox_id, a.pool_id, true, a.traceparent
    FROM advanced AS a
    WHERE a.next_job IS NOT NULL
    RETURNING workspace_id, job_id
)
INSERT INTO scheduler.pace_change (workspace_id, jobs)
SELECT workspace_id, array_agg(job_id ORDER BY job_id) FROM jobs GROUP BY workspace_id
