-- Purpose: how many due follow-ups wait for some mailboxes, up to :most; with :job those before it.
SELECT count(*) AS waiting
FROM (
    SELECT FROM scheduler.send_job AS j
    WHERE j.workspace_id = :workspace AND j.mailbox_id = ANY (CAST(:mailboxes AS bigint[]))
        AND j.state = 'queued' AND j.sticky AND j.due_at <= :due
        AND (CAST(:job AS bigint) IS NULL OR (j.due_at, j.job_id) < (:due, CAST(:job AS bigint)))
    LIMIT :most
) AS j
