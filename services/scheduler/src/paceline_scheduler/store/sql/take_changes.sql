-- Purpose: take what the pacing store has not been told yet. Another scheduler's share is skipped.
DELETE FROM scheduler.pace_change
WHERE change_id IN (
    SELECT c.change_id FROM scheduler.pace_change AS c
    ORDER BY c.change_id LIMIT :most FOR UPDATE SKIP LOCKED)
RETURNING change_id, workspace_id, jobs, scope, ref
