-- Purpose: the first jobs of enrollments that have none yet, their rows locked; of a campaign without
-- steps they wait on. In: the enrollments, and the instant before which none is due, or NULL.
-- Returns how many.
WITH waiting AS MATERIALIZED (
    SELECT e.workspace_id, e.enrollment_id, e.campaign_id, f.position, u.not_before, c.start_at,
        nextval(pg_get_serial_sequence('scheduler.send_job', 'job_id')) AS job_id
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[]),
        CAST(:not_befores AS timestamptz[])
    ) AS u(workspace_id, enrollment_id, not_before)
    JOIN scheduler.enrollment AS e USING (workspace_id, enrollment_id)
    JOIN gateway.v_campaign AS c
        ON (c.workspace_id, c.campaign_id) = (e.workspace_id, e.campaign_id)
    CROSS JOIN LATERAL (
        SELECT min(s.position) AS position FROM gateway.v_step AS s
        WHERE s.workspace_id = e.workspace_id AND s.campaign_id = e.campaign_id
    ) AS f
    WHERE f.position IS NOT NULL AND e.state = 'active' AND e.job_id IS NULL
        AND NOT e.contact_hold
    ORDER BY e.workspace_id, e.enrollment_id
), moved AS (
    UPDATE scheduler.enrollment AS e
    SET job_id = w.job_id, step = w.position, updated_at = clock_timestamp()
    FROM waiting AS w
    WHERE (e.workspace_id, e.enrollment_id) = (w.workspace_id, w.enrollment_id)
), jobs AS (
    INSERT INTO scheduler.send_job (
        workspace_id, job_id, enrollment_id, campaign_id, step, due_at, reason)
    SELECT workspace_id, job_id, enrollment_id, campaign_id, position,
        greatest(clock_timestamp(), start_at, not_before),
        CASE WHEN not_before > greatest(clock_timestamp(), start_at) THEN 'min_days_between' END
    FROM waiting
    RETURNING workspace_id, job_id
), told AS (
    INSERT INTO scheduler.pace_change (workspace_id, jobs)
    SELECT workspace_id, array_agg(job_id ORDER BY job_id) FROM jobs GROUP BY workspace_id
)
SELECT count(*) FROM jobs
