-- Purpose: where a mailbox was read to, and since when an unknown place must be searched again.
SELECT place, connected_at, read_at
FROM reply.cursor
WHERE workspace_id = :workspace AND mailbox_id = :mailbox
