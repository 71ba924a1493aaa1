-- Purpose: make mailboxes this instance's for lease_s, those that are its own already or nobody's
-- (as the worker role). In: parallel arrays workspaces, mailboxes. Out: those that it has.
UPDATE reply.cursor AS c
SET reader = CAST(:instance AS uuid),
    reader_until = clock_timestamp() + make_interval(secs => :lease_s)
FROM (
    SELECT f.workspace_id, f.mailbox_id
    FROM reply.cursor AS f
    JOIN unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]))
         AS w(workspace_id, mailbox_id) USING (workspace_id, mailbox_id)
    ORDER BY f.workspace_id, f.mailbox_id
    FOR UPDATE OF f SKIP LOCKED
) AS w
WHERE c.workspace_id = w.workspace_id AND c.mailbox_id = w.mailbox_id
  AND (c.reader IS NULL OR c.reader = CAST(:instance AS uuid) OR c.reader_until < clock_timestamp())
RETURNING c.workspace_id, c.mailbox_id
