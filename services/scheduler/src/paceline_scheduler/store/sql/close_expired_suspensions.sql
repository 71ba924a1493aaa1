-- Purpose: close suspensions whose time is over and tell the pacer.
WITH closed AS (
    UPDATE scheduler.suspension AS s SET closed_at = s.until, closed_by = 'expiry'
    WHERE s.closed_at IS NULL AND s.until <= clock_timestamp()
    RETURNING s.workspace_id, s.scope, s.ref
)
INSERT INTO scheduler.pace_change (workspace_id, scope, ref)
SELECT DISTINCT workspace_id, scope, ref FROM closed
