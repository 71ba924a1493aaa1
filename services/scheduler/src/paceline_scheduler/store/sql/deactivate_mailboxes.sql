-- Purpose: mailboxes that are gone send nothing any more.
UPDATE scheduler.mailbox_budget AS b
SET is_active = false, inactive_since = coalesce(b.inactive_since, clock_timestamp()),
    revision = b.revision + 1
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[])) AS u(ws, mailbox)
WHERE (b.workspace_id, b.mailbox_id) = (u.ws, u.mailbox) AND b.is_active
