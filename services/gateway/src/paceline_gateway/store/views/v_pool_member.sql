-- Purpose: which mailboxes serve a pool, in order.
CREATE OR REPLACE VIEW gateway.v_pool_member WITH (security_barrier) AS
SELECT workspace_id, pool_id, mailbox_id, position
FROM gateway.pool_member;
