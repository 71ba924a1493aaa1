-- Purpose: who is never contacted again. email is NULL for a domain and where no lead knows it.
CREATE OR REPLACE VIEW scheduler.v_suppression WITH (security_barrier) AS
SELECT a.workspace_id, a.address_id, a.kind, l.email, a.reason, a.source, a.suppressed_at
FROM scheduler.address AS a
LEFT JOIN scheduler.lead AS l USING (workspace_id, address_id)
WHERE a.suppressed_at IS NOT NULL;
