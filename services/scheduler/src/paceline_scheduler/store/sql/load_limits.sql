-- Purpose: what is known of providers' limits on mailboxes, their budgets locked. In: parallel arrays.
-- Out: one row for each that is known.
SELECT b.workspace_id, b.mailbox_id, b.tz, b.limited_day, b.limited_times
FROM scheduler.mailbox_budget AS b
JOIN unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]))
    AS u(workspace_id, mailbox_id) USING (workspace_id, mailbox_id)
ORDER BY b.workspace_id, b.mailbox_id
FOR NO KEY UPDATE OF b
