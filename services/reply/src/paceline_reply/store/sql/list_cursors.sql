-- Purpose: which mailboxes to read, of all workspaces, and whose each is now (as the worker role).
-- `left_s`: for how long it stays so; negative when that is over.
SELECT workspace_id, mailbox_id, version, reader,
       CAST(extract(epoch FROM reader_until - clock_timestamp()) AS float8) AS left_s
FROM reply.cursor WHERE is_active
