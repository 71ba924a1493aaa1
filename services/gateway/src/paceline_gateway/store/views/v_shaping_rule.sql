-- Purpose: how gently recipients' domains are written to. `pattern` is a domain, host:google,
-- host:microsoft, or * (each domain that has no rule of its own).
CREATE OR REPLACE VIEW gateway.v_shaping_rule WITH (security_barrier) AS
SELECT workspace_id, pattern, spacing_s, daily_max
FROM gateway.shaping_rule;
