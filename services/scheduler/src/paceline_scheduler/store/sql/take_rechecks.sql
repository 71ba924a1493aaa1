-- Purpose: take failed mailboxes whose test is due; nobody else does for :lease_s.
UPDATE scheduler.node_recheck AS r
SET next_at = clock_timestamp() + :lease_s * interval '1 s'
FROM (
    SELECT r.workspace_id, r.mailbox_id, r.reason
    FROM scheduler.node_recheck AS r
    JOIN scheduler.mailbox_budget AS b USING (workspace_id, mailbox_id)
    WHERE r.next_at <= clock_timestamp() AND b.is_active
    ORDER BY r.next_at
    LIMIT :most
    FOR UPDATE OF r SKIP LOCKED
) AS d
WHERE (r.workspace_id, r.mailbox_id, r.reason) = (d.workspace_id, d.mailbox_id, d.reason)
RETURNING r.workspace_id, r.mailbox_id, r.reason, r.attempts, clock_timestamp() AS db_now
