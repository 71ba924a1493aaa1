-- Purpose: one writer per chain. Blocks, up to the lock timeout, on another one's transaction.
-- In: workspaces, sorted; an advisory lock, since the role may not lock rows (no UPDATE).
SELECT pg_advisory_xact_lock(hashtextextended('audit.chain', workspace_id))
FROM unnest(CAST(:workspaces AS bigint[])) AS workspace_id
