-- Purpose: the newest doubt of a job, open or settled. Out: one row or none.
SELECT d.fence_no, d.settled_at, d.settled_as, d.settled_by
FROM sender.doubt AS d
WHERE (d.workspace_id, d.job_id) = (CAST(:workspace AS bigint), CAST(:job AS bigint))
ORDER BY d.fence_no DESC
LIMIT 1
