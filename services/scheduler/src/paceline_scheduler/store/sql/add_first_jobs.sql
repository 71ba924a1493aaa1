-- Purpose: a batch of first jobs for enrollments that were made before their campaign had steps.
WITH waiting AS MATERIALIZED (
    SELECT e.workspace_id, e.enrollment_id, e.campaign_id, f.position,
        greatest(clock_timestamp(), c.start_at) AS due_at,
        nextval(pg_get_serial_sequence('scheduler.send_job', 'job_id')) AS job_id
    FROM (
        SELECT e.* FROM scheduler.enrollment AS e
        WHERE e.workspace_id = :workspace AND e.campaign_id = :campaign AND e.state = 'active'
            AND e.job_id IS NULL
        ORDER BY e.enrollment_id
        LIMIT :most
        FOR NO KEY UPDATE
    ) AS e
    JOIN gateway.v_campaign AS c
        ON (c.workspace_id, c.campaign_id) = (e.workspace_id, e.campaign_id)
    CROSS JOIN LATERAL (
        SELECT min(s.position) AS position FROM gateway.v_step AS s
        WHERE s.workspace_id = e.workspace_id AND s.campaign_id = e.campaign_id
    ) AS f
    WHERE f.position IS NOT NULL
), moved AS (
    UPDATE scheduler.enrollment AS e
    SET job_id = w.job_id, step = w.position, updated_at = clock_timestamp()
    FROM waiting AS w
    WHERE (e.workspace_id, e.enrollment_id) = (w.workspace_id, w.enrollment_id)
), jobs AS (
    INSERT INTO scheduler.send_job (
        workspace_id, job_id, enrollment_id, campaign_id, step, due_at)
    SELECT workspace_id, job_id, enrollment_id, campaign_id, position, due_at FROM waiting
    RETURNING workspace_id, job_id
), told AS (
    INSERT INTO scheduler.pace_change (workspace_id, jobs)
    SELECT workspace_id, array_agg(job_id ORDER BY job_id) FROM jobs GROUP BY workspace_id
)
SELECT count(*) FROM jobs
