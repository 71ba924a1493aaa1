-- Purpose: tenants, as scheduler and sender see them.
CREATE OR REPLACE VIEW gateway.v_workspace WITH (security_barrier) AS
SELECT workspace_id, name, timezone, country, is_active
FROM gateway.workspace;
