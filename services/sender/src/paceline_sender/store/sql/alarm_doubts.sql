-- Purpose: the doubts that are open for longer than after_s and were not told again (as worker).
-- Out: one row for each, marked as told.
UPDATE sender.doubt AS d
SET alarmed_at = clock_timestamp()
WHERE d.settled_at IS NULL AND d.alarmed_at IS NULL
  AND d.since < clock_timestamp() - make_interval(secs => CAST(:after_s AS double precision))
RETURNING d.workspace_id, d.job_id, d.since
