-- Purpose: let enrollments go on, their rows locked.
UPDATE scheduler.enrollment AS e SET contact_hold = false, updated_at = clock_timestamp()
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[])) AS u(ws, enrollment)
WHERE (e.workspace_id, e.enrollment_id) = (u.ws, u.enrollment)
