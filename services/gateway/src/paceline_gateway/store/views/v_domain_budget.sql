-- Purpose: how many messages a day all mailboxes of a sending domain may send together.
CREATE OR REPLACE VIEW gateway.v_domain_budget WITH (security_barrier) AS
SELECT workspace_id, domain, daily_max
FROM gateway.domain_budget;
