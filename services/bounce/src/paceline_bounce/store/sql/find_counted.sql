-- Purpose: which of these jobs have a report that counts already.
SELECT job_id FROM bounce.bounce
WHERE workspace_id = :workspace AND job_id = ANY (CAST(:jobs AS bigint[]))
  AND source = 'dsn' AND state = 'counted'
