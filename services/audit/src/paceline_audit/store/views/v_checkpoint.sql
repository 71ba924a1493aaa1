-- Signed heads of every chain. Reader: admin.
CREATE OR REPLACE VIEW audit.v_checkpoint WITH (security_barrier) AS
SELECT workspace_id, seq, digest, signed_at, signature
FROM audit.checkpoint;
