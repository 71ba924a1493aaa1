-- Purpose: the open jobs of some campaigns, counted: those that wait alike are one row. What is due
-- waits alike whenever it became so; later ones by the quarter of an hour. The recipient's host
-- counts only where a campaign (:matching) asks for it. Jobs on their way are told apart (is_sent).
SELECT j.campaign_id, j.step, CASE WHEN j.sticky OR j.state <> 'queued' THEN j.mailbox_id END
        AS mailbox_id,
    j.state <> 'queued' AS is_sent,
    CASE WHEN j.due_at > now()
        THEN date_bin(interval '15 min', j.due_at, timestamptz 'epoch') + interval '15 min'
        END AS due_at,
    coalesce(a.host, 0) AS host, count(*) AS waiting
FROM scheduler.send_job AS j
LEFT JOIN scheduler.enrollment AS e
    ON j.campaign_id = ANY (CAST(:matching AS bigint[])) AND NOT j.sticky
    AND (e.workspace_id, e.enrollment_id) = (j.workspace_id, j.enrollment_id)
LEFT JOIN scheduler.address AS a
    ON (a.workspace_id, a.address_id) = (e.workspace_id, e.address_id)
WHERE j.workspace_id = :workspace AND j.campaign_id = ANY (CAST(:campaigns AS bigint[]))
    AND j.state IN ('queued', 'reserved', 'sending')
GROUP BY 1, 2, 3, 4, 5, 6
ORDER BY 1, 2, 3, 4, 5, 6
