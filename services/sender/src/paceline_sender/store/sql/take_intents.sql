-- Purpose: drafts that may have been made and that nobody has written down (as worker: all tenants).
-- Out: at most `most` intents that are due, each put off by `lease_s`, so that no other process takes
--     it in the same while.
-- Notes: an intent whose attempt has its draft is over: `attempt` says what becomes of that one.
WITH due AS MATERIALIZED (
    SELECT i.workspace_id, i.job_id, i.fence, EXISTS (
        SELECT FROM sender.attempt AS a
        WHERE (a.workspace_id, a.job_id, a.fence) = (i.workspace_id, i.job_id, i.fence)
          AND a.draft IS NOT NULL
    ) AS known
    FROM sender.draft_intent AS i
    WHERE i.look_at < clock_timestamp()
    ORDER BY i.look_at
    LIMIT CAST(:most AS int)
    FOR UPDATE SKIP LOCKED
),
over AS (
    DELETE FROM sender.draft_intent AS i
    USING due AS d
    WHERE d.known AND (i.workspace_id, i.job_id, i.fence) = (d.workspace_id, d.job_id, d.fence)
)
UPDATE sender.draft_intent AS i
SET look_at = clock_timestamp() + make_interval(secs => CAST(:lease_s AS double precision))
FROM due AS d
WHERE NOT d.known AND (i.workspace_id, i.job_id, i.fence) = (d.workspace_id, d.job_id, d.fence)
RETURNING i.workspace_id, i.job_id, i.fence, i.mailbox_id, i.provider, i.not_after, i.created_at,
    clock_timestamp() AS db_now
