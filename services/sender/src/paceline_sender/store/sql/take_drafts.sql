-- Purpose: drafts left over by tries whose process could not destroy them (as worker: all tenants).
-- Out: at most `limit`, each put off, so that no other process takes it in the same while. Those
--     older than a week are given up.
UPDATE sender.attempt AS a
SET draft_left_at = CASE WHEN a.finished_at > clock_timestamp() - interval '7 days'
    THEN clock_timestamp() + interval '1 hour' END
FROM (
    SELECT workspace_id, attempt_id
    FROM sender.attempt
    WHERE draft_left_at < clock_timestamp() - interval '5 minutes'
    ORDER BY draft_left_at
    LIMIT CAST(:limit AS int)
    FOR UPDATE SKIP LOCKED
) AS old
WHERE (a.workspace_id, a.attempt_id) = (old.workspace_id, old.attempt_id)
RETURNING a.workspace_id, a.job_id, a.mailbox_id, a.draft
