-- Purpose: whether a mailbox is held for this reason already, or, for its sending side, for any fault
-- of that.
SELECT EXISTS (
    SELECT FROM scheduler.suspension AS s
    WHERE (s.workspace_id, s.scope, s.ref) = (:workspace, :scope, :ref) AND s.closed_at IS NULL
        AND (s.until IS NULL OR s.until > clock_timestamp())
        AND (s.reason = :reason OR :reason = 'probe_send_failed'
            AND scheduler.is_node_failure(s.reason) AND s.reason <> 'probe_read_failed'))
