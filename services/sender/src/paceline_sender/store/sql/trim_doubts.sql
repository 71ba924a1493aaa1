-- Purpose: delete a batch of doubts that were settled longer ago than :age (as worker).
DELETE FROM sender.doubt
WHERE (workspace_id, job_id, fence_no) IN (
    SELECT d.workspace_id, d.job_id, d.fence_no FROM sender.doubt AS d
    WHERE d.settled_at < clock_timestamp() - CAST(:age AS interval)
    LIMIT :most
    FOR UPDATE SKIP LOCKED)
