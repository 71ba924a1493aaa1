-- Purpose: the queued jobs of enrollments that no suspension of their own holds any more.
SELECT j.workspace_id, j.job_id, j.campaign_id,
    CASE WHEN j.sticky THEN j.mailbox_id END AS mailbox_id,
    floor(extract(epoch FROM j.due_at) * 1000)::bigint AS due_ms
FROM scheduler.send_job AS j
WHERE j.workspace_id = :workspace AND j.enrollment_id = ANY (CAST(:enrollments AS bigint[]))
    AND j.state = 'queued' AND j.campaign_id IS NOT NULL
    AND NOT EXISTS (
        SELECT 1 FROM scheduler.suspension AS s
        WHERE (s.workspace_id, s.scope, s.ref) = (j.workspace_id, 'enrollment', j.enrollment_id)
            AND s.closed_at IS NULL AND (s.until IS NULL OR s.until > clock_timestamp()))
ORDER BY j.due_at, j.job_id
