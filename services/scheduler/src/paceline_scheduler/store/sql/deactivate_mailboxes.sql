-- Purpose: mailboxes that are gone send nothing any more.
UPDATE scheduler.mailbox_budget AS b SET is_active = false
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[])) AS u(ws, mailbox)
WHERE (b.workspace_id, b.mailbox_id) = (u.ws, u.mailbox)
