-- Purpose: keep a signed head; another process may have signed the same.
INSERT INTO audit.checkpoint (workspace_id, seq, digest, signed_at, signature)
VALUES (:workspace, :seq, :digest, :signed_at, :signature)
ON CONFLICT (workspace_id, seq) DO NOTHING
