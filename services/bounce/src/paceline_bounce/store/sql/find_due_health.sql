-- Purpose: mailboxes whose health changes by time alone, of any workspace (worker role).
SELECT workspace_id, mailbox_id
FROM bounce.mailbox_health
WHERE recompute_at <= :now
ORDER BY recompute_at
LIMIT :most
