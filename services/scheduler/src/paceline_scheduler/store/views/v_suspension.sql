-- Purpose: what is, or was, held back, by whom and why.
CREATE OR REPLACE VIEW scheduler.v_suspension WITH (security_barrier) AS
SELECT
    workspace_id, suspension_id, scope, ref, reason, detail, until, opened_by, opened_at, closed_at
FROM scheduler.suspension;
