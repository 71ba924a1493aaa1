-- Purpose: mailboxes whose health is older than the version named, with what their types rest on.
-- Their gates are held. :scores NULL: not known.
SELECT u.n, b.workspace_id, b.mailbox_id, u.version, u.score, u.stage, b.policy,
    b.tz AS timezone, b.provider, b.country, b.region, b.connected_at
FROM (
    SELECT DISTINCT ON (workspace_id, mailbox_id) *
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]), CAST(:versions AS bigint[]),
        CAST(:scores AS integer[]), CAST(:stages AS integer[])
    ) WITH ORDINALITY AS v(workspace_id, mailbox_id, version, score, stage, n)
    ORDER BY workspace_id, mailbox_id, version DESC
) AS u
JOIN scheduler.mailbox_budget AS b USING (workspace_id, mailbox_id)
WHERE b.health_version < u.version
ORDER BY b.workspace_id, b.mailbox_id
