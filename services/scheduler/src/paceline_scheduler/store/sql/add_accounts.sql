-- Purpose: begin to count the provider accounts of mailboxes that have a ceiling, with what these
-- workspaces' mailboxes sent through them in the last hours. Their budgets' rows are locked.
INSERT INTO scheduler.account_budget (account_ref, hour, hours)
SELECT f.account_ref, f.hour, ARRAY(
    SELECT (
        SELECT count(*)::integer
        FROM scheduler.mailbox_budget AS b
        JOIN scheduler.slot AS s USING (workspace_id, mailbox_id)
        WHERE b.account_ref = f.account_ref AND s.returned_at IS NULL
            AND s.slot_at >= f.hour - n * interval '1 hour'
            AND s.slot_at < f.hour - (n - 1) * interval '1 hour')
    FROM generate_series(0, 24) AS n
    ORDER BY n)
FROM (
    SELECT DISTINCT b.account_ref,
        date_trunc('hour', clock_timestamp() + interval '5 s') AS hour
    FROM unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]))
        AS u(workspace_id, mailbox_id)
    JOIN scheduler.mailbox_budget AS b USING (workspace_id, mailbox_id)
    WHERE b.ceiling IS NOT NULL AND NOT EXISTS (
        SELECT FROM scheduler.account_budget AS a WHERE a.account_ref = b.account_ref)
    ORDER BY 1
) AS f
ON CONFLICT DO NOTHING
