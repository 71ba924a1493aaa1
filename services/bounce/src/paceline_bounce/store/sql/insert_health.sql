-- Purpose: give mailboxes that have none their row of health. In: parallel arrays.
INSERT INTO bounce.mailbox_health (workspace_id, mailbox_id)
SELECT workspace_id, mailbox_id
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]))
     AS e(workspace_id, mailbox_id)
ORDER BY workspace_id, mailbox_id
ON CONFLICT DO NOTHING
