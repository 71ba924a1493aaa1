-- Purpose: write compiled open stretches; a row whose policy changed meanwhile keeps its own.
UPDATE scheduler.mailbox_budget AS b
SET open_from = u.open_from, open_until = u.open_until
FROM (
    SELECT b.workspace_id, b.mailbox_id, v.version, v.open_from, v.open_until
    FROM unnest(
        CAST(:mailboxes AS bigint[]), CAST(:versions AS bigint[]),
        CAST(:open_froms AS timestamptz[]), CAST(:open_untils AS timestamptz[])
    ) AS v(mailbox_id, version, open_from, open_until)
    JOIN scheduler.mailbox_budget AS b
        ON (b.workspace_id, b.mailbox_id) = (:workspace, v.mailbox_id)
    ORDER BY b.mailbox_id
    FOR NO KEY UPDATE OF b
) AS u
WHERE (b.workspace_id, b.mailbox_id) = (u.workspace_id, u.mailbox_id) AND b.version = u.version
    AND (b.open_from, b.open_until) IS DISTINCT FROM (u.open_from, u.open_until)
