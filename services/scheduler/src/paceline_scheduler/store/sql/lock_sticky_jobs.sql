-- Purpose: a batch of a campaign's queued jobs that only one mailbox may send, with their enrollments,
-- locked in the order of the house; those somebody else holds are left for the next look. With
-- :first_only, jobs of enrollments to which nothing was sent yet.
WITH found AS MATERIALIZED (
    SELECT j.workspace_id, j.job_id, j.enrollment_id
    FROM scheduler.send_job AS j
    JOIN scheduler.enrollment AS e USING (workspace_id, enrollment_id)
    WHERE j.workspace_id = :workspace AND j.mailbox_id = :mailbox AND j.campaign_id = :campaign
        AND j.state = 'queued' AND j.sticky
        AND (NOT CAST(:first_only AS boolean)
            OR j.first_deferred_at IS NOT NULL AND e.mailbox_id IS NULL)
    ORDER BY j.due_at, j.job_id
    LIMIT :most
), held AS MATERIALIZED (
    SELECT e.workspace_id, e.enrollment_id
    FROM scheduler.enrollment AS e
    WHERE (e.workspace_id, e.enrollment_id) IN (
            SELECT f.workspace_id, f.enrollment_id FROM found AS f)
        AND e.state = 'active'
    ORDER BY e.workspace_id, e.enrollment_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
)
SELECT j.workspace_id, j.job_id, j.enrollment_id
FROM scheduler.send_job AS j
WHERE (j.workspace_id, j.job_id) IN (
        SELECT f.workspace_id, f.job_id FROM found AS f JOIN held AS h USING (workspace_id, enrollment_id))
    AND j.state = 'queued' AND j.sticky AND j.mailbox_id = :mailbox
ORDER BY j.workspace_id, j.job_id
FOR UPDATE OF j SKIP LOCKED
