-- Purpose: write the numbering of a workspace's lanes. The row is held.
UPDATE scheduler.shard AS s SET lanes = CAST(:lanes AS jsonb) WHERE s.workspace_id = :workspace
