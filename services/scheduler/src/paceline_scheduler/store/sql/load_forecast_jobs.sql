-- Purpose: the open jobs of some campaigns, counted: those that wait alike are one row. What is due
-- waits alike whenever it became so; later ones by the tenth of a second where there are few jobs,
-- by the quarter of an hour or the hour where there are many. The recipient's host counts only where
-- a campaign (:matching) asks for it. Jobs on their way are told apart (is_sent).
WITH open AS MATERIALIZED (
    SELECT j.enrollment_id, j.campaign_id, j.step, j.state <> 'queued' AS is_sent, j.sticky,
        CASE WHEN j.sticky OR j.state <> 'queued' THEN j.mailbox_id END AS mailbox_id,
        CASE WHEN j.due_at > now() THEN j.due_at END AS due_at
    FROM scheduler.send_job AS j
    WHERE j.workspace_id = :workspace AND j.campaign_id = ANY (CAST(:campaigns AS bigint[]))
        AND j.state IN ('queued', 'reserved', 'sending')
), grain AS (
    SELECT CASE WHEN count(*) <= 20000 THEN interval '100 ms'
        WHEN count(*) <= 200000 THEN interval '15 min' ELSE interval '1 hour' END AS step
    FROM open
)
SELECT o.campaign_id, o.step, o.mailbox_id, o.is_sent,
    date_bin(g.step, o.due_at, timestamptz 'epoch') + g.step AS due_at,
    coalesce(a.host, 0) AS host, count(*) AS waiting
FROM open AS o
CROSS JOIN grain AS g
LEFT JOIN scheduler.enrollment AS e
    ON o.campaign_id = ANY (CAST(:matching AS bigint[])) AND NOT o.sticky
    AND (e.workspace_id, e.enrollment_id) = (:workspace, o.enrollment_id)
LEFT JOIN scheduler.address AS a
    ON (a.workspace_id, a.address_id) = (e.workspace_id, e.address_id)
GROUP BY 1, 2, 3, 4, 5, 6
ORDER BY 1, 2, 3, 4, 5, 6
