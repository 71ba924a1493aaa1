-- Purpose: tenants, as scheduler and sender see them. `contact` is how hard one lead, or one
-- company, may be pressed; `headers`, [[name, value], ...], go into each message.
CREATE OR REPLACE VIEW gateway.v_workspace WITH (security_barrier) AS
SELECT
    workspace_id, name, timezone, country, is_active, region,
    jsonb_build_object(
        'parallel_campaigns', parallel_campaigns, 'min_days_between', min_days_between,
        'company_stop', company_stop
    ) AS contact,
    headers
FROM gateway.workspace;
