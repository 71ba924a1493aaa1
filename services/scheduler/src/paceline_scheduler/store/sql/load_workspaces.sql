-- Purpose: every workspace that paces anything.
SELECT workspace_id FROM scheduler.shard ORDER BY workspace_id
