-- Purpose: close suspensions whose time is over, tell the pacer and the audit log. Returns how many.
WITH closed AS (
    UPDATE scheduler.suspension AS s SET closed_at = s.until, closed_by = 'expiry'
    WHERE s.closed_at IS NULL AND s.until <= clock_timestamp()
    RETURNING s.workspace_id, s.scope, s.ref, s.reason
), told AS (
    INSERT INTO scheduler.pace_change (workspace_id, scope, ref)
    SELECT DISTINCT workspace_id, scope, ref FROM closed
), audited AS MATERIALIZED (
    SELECT scheduler.emit_audit(c.workspace_id, 'suspension.closed', 'expiry',
        scheduler.scope_id(c.workspace_id, c.scope, c.ref),
        jsonb_build_object('scope', c.scope, 'reason', c.reason))
    FROM closed AS c
)
SELECT count(*) FROM audited
