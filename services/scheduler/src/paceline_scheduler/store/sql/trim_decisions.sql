-- Purpose: delete a batch of decisions that ended, or were last made, longer ago than :age.
DELETE FROM scheduler.decision
WHERE (workspace_id, decision_id) IN (
    SELECT d.workspace_id, d.decision_id FROM scheduler.decision AS d
    WHERE d.last_at < clock_timestamp() - CAST(:age AS interval)
        AND (d.scope = 'job' OR NOT d.is_open)
    ORDER BY d.last_at
    LIMIT :most
    FOR UPDATE SKIP LOCKED)
