-- Purpose: look again at `look_at` for the draft of an intent; null: no more. Out: nothing.
WITH over AS (
    DELETE FROM sender.draft_intent
    WHERE CAST(:look_at AS timestamptz) IS NULL
      AND (workspace_id, job_id, fence)
          = (CAST(:workspace AS bigint), CAST(:job AS bigint), CAST(:fence AS int))
)
UPDATE sender.draft_intent
SET look_at = CAST(:look_at AS timestamptz)
WHERE CAST(:look_at AS timestamptz) IS NOT NULL
  AND (workspace_id, job_id, fence)
      = (CAST(:workspace AS bigint), CAST(:job AS bigint), CAST(:fence AS int))
