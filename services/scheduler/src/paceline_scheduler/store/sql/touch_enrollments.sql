-- Purpose: something was learned about these enrollments that their jobs' rows already tell.
UPDATE scheduler.enrollment AS e SET updated_at = clock_timestamp()
WHERE (e.workspace_id, e.enrollment_id) IN (
    SELECT h.workspace_id, h.enrollment_id FROM (
        SELECT e.workspace_id, e.enrollment_id FROM scheduler.enrollment AS e
        WHERE (e.workspace_id, e.enrollment_id) IN (
            SELECT * FROM unnest(CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[])))
        ORDER BY e.workspace_id, e.enrollment_id
        FOR NO KEY UPDATE
    ) AS h)
