-- A workspace's own trail. Reader: gateway. No transaction of a tenant names workspace 0,
-- so the installation's rows never show here.
CREATE OR REPLACE VIEW audit.v_audit WITH (security_barrier) AS
SELECT workspace_id, seq, at, action, actor, subject, source_ip, detail, digest
FROM audit.audit_record
WHERE workspace_id <> 0;
