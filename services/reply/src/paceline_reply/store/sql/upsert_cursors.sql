-- Purpose: take over what mailboxes are now, from the gateway's view; a mailbox that is gone or
-- has nothing to read with becomes inactive. The place already read to stays.
-- In: parallel arrays workspaces, mailboxes, versions, instants (of the change), one row each.
INSERT INTO reply.cursor AS c (workspace_id, mailbox_id, version, is_active, connected_at)
SELECT e.workspace_id, e.mailbox_id, coalesce(m.version, e.version),
       coalesce(m.is_active AND m.credential IS NOT NULL, false), e.at
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]),
            CAST(:versions AS bigint[]), CAST(:instants AS timestamptz[]))
     AS e(workspace_id, mailbox_id, version, at)
LEFT JOIN gateway.v_mailbox_read AS m USING (workspace_id, mailbox_id)
ORDER BY e.workspace_id, e.mailbox_id
ON CONFLICT (workspace_id, mailbox_id) DO UPDATE
SET version = excluded.version, is_active = excluded.is_active
WHERE excluded.version >= c.version
