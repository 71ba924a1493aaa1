-- Purpose: note that a draft which was left over is gone. Out: nothing.
UPDATE sender.attempt
SET draft_left_at = NULL
WHERE (workspace_id, job_id) = (CAST(:workspace AS bigint), CAST(:job AS bigint))
  AND draft_left_at IS NOT NULL AND draft ->> 'draft_id' = CAST(:draft_id AS text)
