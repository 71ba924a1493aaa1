-- Purpose: what mailboxes sent within the window and the month that end with `today` (UTC), and the
-- oldest day of each that has something. In: parallel arrays. Mailboxes without any have no row.
SELECT workspace_id, mailbox_id,
       coalesce(sum(d.sent + d.refused) FILTER (WHERE d.day > w.since), 0) AS sends,
       coalesce(sum(d.hard) FILTER (WHERE d.day > w.since), 0) AS hard,
       coalesce(sum(d.block + d.limited) FILTER (WHERE d.day > w.since), 0) AS blocked,
       coalesce(sum(d.complaint) FILTER (WHERE d.day > w.since), 0) AS complaints,
       coalesce(sum(d.sent + d.refused) FILTER (WHERE d.day > w.month), 0) AS month_sends,
       coalesce(sum(d.hard) FILTER (WHERE d.day > w.month), 0) AS month_hard,
       min(d.day) FILTER (WHERE d.day > w.since) AS oldest,
       min(d.day) FILTER (WHERE d.day > w.month) AS month_oldest
FROM (SELECT CAST(:today AS date) - CAST(:days AS integer) AS since,
             CAST(:today AS date) - CAST(:month_days AS integer) AS month) AS w
CROSS JOIN unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]))
           AS e(workspace_id, mailbox_id)
JOIN bounce.mailbox_day AS d USING (workspace_id, mailbox_id)
WHERE d.day > least(w.since, w.month)
GROUP BY workspace_id, mailbox_id
