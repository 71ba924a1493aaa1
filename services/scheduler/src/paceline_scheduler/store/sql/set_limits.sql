-- Purpose: throttle mailboxes that their provider limited; their budgets are locked. The stretch
-- compiled of the whole cap is dropped, so that nothing is leased by it. In: parallel arrays.
UPDATE scheduler.mailbox_budget AS b
SET limited_day = u.day, limited_times = u.times,
    throttled_until = greatest(b.throttled_until, u.until),
    revision = b.revision + 1, open_from = 'infinity', open_until = 'infinity'
FROM unnest(
    CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]), CAST(:days AS date[]),
    CAST(:times AS integer[]), CAST(:untils AS timestamptz[])
) AS u(workspace_id, mailbox_id, day, times, until)
WHERE (b.workspace_id, b.mailbox_id) = (u.workspace_id, u.mailbox_id)
