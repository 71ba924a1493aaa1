-- Every column that a chain's digests cover, of every chain. Reader: admin, whom policy
-- `admin_reads` on the table shows all rows.
CREATE OR REPLACE VIEW audit.v_audit_chain WITH (security_barrier) AS
SELECT workspace_id, seq, event_id, source, at, action, actor, subject, source_ip,
       before_digest, after_digest, detail, digest
FROM audit.audit_record;
