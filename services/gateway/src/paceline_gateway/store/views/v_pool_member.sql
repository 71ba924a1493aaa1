-- Purpose: which mailboxes serve a pool, in order; `weight` counts in the rotation `weighted`,
-- `rank` (0 primary, 1.. backups) in `priority`.
CREATE OR REPLACE VIEW gateway.v_pool_member WITH (security_barrier) AS
SELECT workspace_id, pool_id, mailbox_id, position, weight, rank
FROM gateway.pool_member;
