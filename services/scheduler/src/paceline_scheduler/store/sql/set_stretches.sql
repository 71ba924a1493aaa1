-- Purpose: write compiled open stretches with the cap of their day; a row that changed meanwhile in
-- what it is compiled from keeps its own.
UPDATE scheduler.mailbox_budget AS b
SET open_from = u.open_from, open_until = u.open_until, day_cap = u.day_cap
FROM (
    SELECT b.workspace_id, b.mailbox_id, v.revision, v.open_from, v.open_until, v.day_cap
    FROM unnest(
        CAST(:mailboxes AS bigint[]), CAST(:revisions AS bigint[]),
        CAST(:open_froms AS timestamptz[]), CAST(:open_untils AS timestamptz[]),
        CAST(:day_caps AS integer[])
    ) AS v(mailbox_id, revision, open_from, open_until, day_cap)
    JOIN scheduler.mailbox_budget AS b
        ON (b.workspace_id, b.mailbox_id) = (:workspace, v.mailbox_id)
    ORDER BY b.mailbox_id
    FOR NO KEY UPDATE OF b
) AS u
WHERE (b.workspace_id, b.mailbox_id) = (u.workspace_id, u.mailbox_id) AND b.revision = u.revision
    AND (b.open_from, b.open_until, b.day_cap)
        IS DISTINCT FROM (u.open_from, u.open_until, u.day_cap)
