-- Purpose: lease the doubts that are due for a look, oldest first (as worker: all tenants).
-- In: first_s after a doubt began it is looked at first; instance; lease_s until another one may
--     take it too, dead_after_s from when on a silent one holds nothing; most.
-- Out: one row per doubt taken, with its attempt.
-- Notes: what another process holds is skipped. The count of the look is the taker's to write.
WITH due AS (
    SELECT d.workspace_id, d.job_id, d.fence_no
    FROM sender.doubt AS d
    LEFT JOIN sender.instance AS i ON i.instance_id = d.looking_by
    WHERE d.settled_at IS NULL
      AND coalesce(
          d.next_look_at, d.since + make_interval(secs => CAST(:first_s AS double precision))
      ) <= clock_timestamp()
      AND (
          coalesce(d.looking_until, '-infinity') < clock_timestamp()
          OR coalesce(i.beat_at, '-infinity')
              < clock_timestamp() - make_interval(secs => CAST(:dead_after_s AS double precision))
      )
    ORDER BY d.since
    LIMIT :most
    FOR UPDATE OF d SKIP LOCKED
)
UPDATE sender.doubt AS d
SET looking_by = CAST(:instance AS uuid),
    looking_until = clock_timestamp() + make_interval(secs => CAST(:lease_s AS double precision))
FROM due, sender.attempt AS a
WHERE (d.workspace_id, d.job_id, d.fence_no) = (due.workspace_id, due.job_id, due.fence_no)
  AND (a.workspace_id, a.job_id, a.fence) = (due.workspace_id, due.job_id, due.fence_no)
  AND a.claimed_at IS NOT NULL
RETURNING d.workspace_id, d.job_id, d.fence_no, d.mailbox_id, d.provider, d.since, d.looks,
    d.destroying_since, a.draft, a.claimed_at, a.not_after
