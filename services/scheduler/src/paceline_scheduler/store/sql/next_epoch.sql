-- Purpose: begin a new epoch of a workspace: proposals of the old one are refused from here on. Its
-- lanes are numbered anew.
WITH shard AS (
    INSERT INTO scheduler.shard AS s (workspace_id, epoch) VALUES (:workspace, 1)
    ON CONFLICT (workspace_id) DO UPDATE
    SET epoch = s.epoch + 1, rebuilt_at = clock_timestamp(), lanes = '[]'
    RETURNING s.epoch
), held AS MATERIALIZED (
    SELECT b.mailbox_id FROM scheduler.mailbox_budget AS b
    WHERE b.workspace_id = :workspace ORDER BY b.mailbox_id FOR NO KEY UPDATE
), moved AS (
    -- By one array: a join would be a guess where thousands have just been connected.
    UPDATE scheduler.mailbox_budget AS b SET epoch = (SELECT epoch FROM shard)
    WHERE b.workspace_id = :workspace AND b.mailbox_id = ANY (ARRAY(SELECT mailbox_id FROM held))
)
SELECT epoch FROM shard
