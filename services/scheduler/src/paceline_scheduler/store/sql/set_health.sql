-- Purpose: write what is known of mailboxes' health and the types they serve by it. Their gates are
-- held. The stretch compiled of the old is dropped, so that nothing is leased by it.
UPDATE scheduler.mailbox_budget AS b
SET health = h.score, stage = h.stage, health_version = h.version, types = h.types,
    revision = b.revision + 1, open_from = 'infinity', open_until = 'infinity'
FROM (
    SELECT u.*
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]), CAST(:versions AS bigint[]),
        CAST(:scores AS smallint[]), CAST(:stages AS smallint[]), CAST(:types AS smallint[])
    ) AS u(workspace_id, mailbox_id, version, score, stage, types)
    JOIN scheduler.mailbox_budget AS b USING (workspace_id, mailbox_id)
    ORDER BY u.workspace_id, u.mailbox_id
    FOR NO KEY UPDATE OF b
) AS h
WHERE (b.workspace_id, b.mailbox_id) = (h.workspace_id, h.mailbox_id)
    AND b.health_version < h.version
