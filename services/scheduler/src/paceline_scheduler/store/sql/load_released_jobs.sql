-- Purpose: the queued follow-ups of pools, or jobs of enrollments, which their closed gate held out
-- of the pacing store and holds no more (all others kept their place in a list).
SELECT f.job_id
FROM (
    SELECT j.job_id, j.due_at, j.pool_id AS ref
    FROM scheduler.send_job AS j
    WHERE CAST(:scope AS text) = 'pool' AND j.workspace_id = :workspace AND j.state = 'queued'
        AND j.sticky AND j.pool_id = ANY (CAST(:refs AS bigint[]))
    UNION ALL
    SELECT j.job_id, j.due_at, j.enrollment_id
    FROM scheduler.send_job AS j
    WHERE CAST(:scope AS text) = 'enrollment' AND j.workspace_id = :workspace
        AND j.state IN ('queued', 'reserved', 'sending', 'in_doubt') AND j.state = 'queued'
        AND j.enrollment_id = ANY (CAST(:refs AS bigint[]))
) AS f
WHERE NOT EXISTS (
    SELECT 1 FROM scheduler.suspension AS s
    WHERE (s.workspace_id, s.scope, s.ref) = (:workspace, :scope, f.ref)
        AND s.closed_at IS NULL AND (s.until IS NULL OR s.until > clock_timestamp()))
ORDER BY f.due_at, f.job_id
