-- Purpose: pools, and how each picks among its mailboxes.
CREATE OR REPLACE VIEW gateway.v_pool WITH (security_barrier) AS
SELECT workspace_id, pool_id, name, rotation
FROM gateway.pool;
