-- Purpose: which pools active mailboxes are in, some or all of a workspace (:mailboxes NULL), how
-- these pools pick, and what the mailboxes' classes rest on; without pools whose gate is closed.
SELECT m.mailbox_id, m.pool_id, p.rotation, m.position, m.weight, m.rank, b.types, b.host,
    CASE WHEN b.health_floor THEN b.health END AS health
FROM gateway.v_pool_member AS m
JOIN gateway.v_pool AS p USING (workspace_id, pool_id)
-- By key, whatever the planner knows of tables that have just been filled.
CROSS JOIN LATERAL (
    SELECT b.types, b.host, b.health_floor, b.health, b.is_active
    FROM scheduler.mailbox_budget AS b
    WHERE (b.workspace_id, b.mailbox_id) = (m.workspace_id, m.mailbox_id) OFFSET 0
) AS b
WHERE m.workspace_id = :workspace AND b.is_active
    AND (CAST(:mailboxes AS bigint[]) IS NULL OR m.mailbox_id = ANY (CAST(:mailboxes AS bigint[])))
    AND NOT EXISTS (
        SELECT 1 FROM scheduler.suspension AS s
        WHERE (s.workspace_id, s.scope, s.ref) = (m.workspace_id, 'pool', m.pool_id)
            AND s.closed_at IS NULL AND (s.until IS NULL OR s.until > clock_timestamp()))
ORDER BY m.pool_id, m.position, m.mailbox_id
