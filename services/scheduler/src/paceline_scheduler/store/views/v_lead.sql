-- Purpose: leads with what templates may use.
CREATE OR REPLACE VIEW scheduler.v_lead WITH (security_barrier) AS
SELECT
    workspace_id, lead_id, email, first_name, last_name, company, timezone, fields, created_at
FROM scheduler.lead;
