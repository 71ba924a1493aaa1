-- Purpose: call scheduler.finish_enrollments; returns what changed.
SELECT f.workspace_id, f.enrollment_id
FROM scheduler.finish_enrollments(
    CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[]), CAST(:states AS text[]),
    CAST(:reasons AS text[])) AS f
