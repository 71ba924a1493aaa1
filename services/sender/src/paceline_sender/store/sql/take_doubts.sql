-- Purpose: lease the doubts that are due for a look, oldest first (as worker: all tenants).
-- In: first_s after a doubt began it is looked at first; lease_s until another process may take it
--     too; most. Out: one row per doubt taken, with its attempt.
-- Notes: what another process holds is skipped. The count of the look is the taker's to write.
WITH due AS (
    SELECT d.workspace_id, d.job_id, d.fence_no
    FROM sender.doubt AS d
    WHERE d.settled_at IS NULL
      AND coalesce(
          d.next_look_at, d.since + make_interval(secs => CAST(:first_s AS double precision))
      ) <= clock_timestamp()
      AND coalesce(d.looking_until, '-infinity') < clock_timestamp()
    ORDER BY d.since
    LIMIT :most
    FOR UPDATE SKIP LOCKED
)
UPDATE sender.doubt AS d
SET looking_until = clock_timestamp() + make_interval(secs => CAST(:lease_s AS double precision))
FROM due, sender.attempt AS a
WHERE (d.workspace_id, d.job_id, d.fence_no) = (due.workspace_id, due.job_id, due.fence_no)
  AND (a.workspace_id, a.job_id, a.fence) = (due.workspace_id, due.job_id, due.fence_no)
  AND a.claimed_at IS NOT NULL
RETURNING d.workspace_id, d.job_id, d.fence_no, d.mailbox_id, d.provider, d.since, d.looks,
    d.destroying_since, a.draft, a.claimed_at, a.not_after
