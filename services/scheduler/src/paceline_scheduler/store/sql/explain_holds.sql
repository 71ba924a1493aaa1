-- Purpose: by what some mailboxes are closed now, by the decisions in force: how many by each.
SELECT CASE WHEN d.until > clock_timestamp() OR d.until IS NULL THEN d.reason
        -- The hold is over, and the hours are closed yet.
        ELSE 'outside_window' END AS state, count(*) AS members
FROM unnest(CAST(:mailboxes AS bigint[])) AS m(mailbox_id)
CROSS JOIN LATERAL (
    SELECT d.reason, d.until FROM scheduler.decision AS d
    WHERE (d.workspace_id, d.scope, d.ref) = (:workspace, 'mailbox', m.mailbox_id)
        AND d.is_open AND d.scope <> 'job'
) AS d
WHERE d.reason <> 'open'
GROUP BY 1
