-- Purpose: the pools these mailboxes are in.
SELECT DISTINCT m.workspace_id, m.pool_id FROM gateway.v_pool_member AS m
WHERE m.mailbox_id = ANY (CAST(:mailboxes AS bigint[]))
