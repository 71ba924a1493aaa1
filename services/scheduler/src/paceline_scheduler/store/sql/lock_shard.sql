-- Purpose: hold a workspace's shard, for one writer of routes and mailboxes at a time; its lanes.
SELECT s.lanes FROM scheduler.shard AS s WHERE s.workspace_id = :workspace FOR NO KEY UPDATE
