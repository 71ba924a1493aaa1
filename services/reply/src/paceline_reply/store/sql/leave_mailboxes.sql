-- Purpose: let others read mailboxes that are this instance's (as the worker role).
-- In: parallel arrays workspaces, mailboxes.
UPDATE reply.cursor AS c SET reader = NULL, reader_until = NULL
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]))
     AS w(workspace_id, mailbox_id)
WHERE c.workspace_id = w.workspace_id AND c.mailbox_id = w.mailbox_id
  AND c.reader = CAST(:instance AS uuid)
