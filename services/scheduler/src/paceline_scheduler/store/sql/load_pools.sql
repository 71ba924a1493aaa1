-- Purpose: which pools each mailbox is in, without pools whose gate is closed.
SELECT m.mailbox_id, m.pool_id
FROM gateway.v_pool_member AS m
WHERE m.workspace_id = :workspace AND NOT EXISTS (
    SELECT 1 FROM scheduler.suspension AS s
    WHERE (s.workspace_id, s.scope, s.ref) = (m.workspace_id, 'pool', m.pool_id)
        AND s.closed_at IS NULL AND (s.until IS NULL OR s.until > clock_timestamp()))
ORDER BY m.position, m.pool_id
