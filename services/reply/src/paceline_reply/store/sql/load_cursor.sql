-- Purpose: where a mailbox was read to, and since when an unknown place must be searched again:
-- the last message received, else the moment the mailbox was connected.
SELECT c.uid_validity, c.last_uid, c.connected_at,
       coalesce((SELECT max(i.received_at) FROM reply.inbound_message AS i
                 WHERE i.workspace_id = c.workspace_id AND i.mailbox_id = c.mailbox_id),
                c.connected_at) AS read_until
FROM reply.cursor AS c
WHERE c.workspace_id = :workspace AND c.mailbox_id = :mailbox
