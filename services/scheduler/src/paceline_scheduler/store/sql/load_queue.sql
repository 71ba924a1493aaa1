-- Purpose: a workspace's queued jobs with after < due_at <= until as lists, each job of a list for
-- the same campaign, mailbox (of its own) and host, at most :most, in the order they are sent in.
-- The host is that of the recipient's domain where the campaign asks for it.
SELECT q.campaign_id, q.mailbox_id, q.host, array_agg(q.job_id ORDER BY q.place) AS jobs,
    array_agg(q.due_ms ORDER BY q.place) AS dues
FROM (
    SELECT j.campaign_id, j.job_id, m.mailbox_id, h.host,
        floor(extract(epoch FROM j.due_at) * 1000)::bigint AS due_ms,
        row_number() OVER (
            PARTITION BY j.campaign_id, m.mailbox_id, h.host ORDER BY j.due_at, j.job_id) AS place
    FROM scheduler.send_job AS j
    CROSS JOIN LATERAL (SELECT CASE WHEN j.sticky THEN j.mailbox_id END AS mailbox_id) AS m
    LEFT JOIN scheduler.campaign_policy AS p
        ON (p.workspace_id, p.campaign_id) = (j.workspace_id, j.campaign_id)
    CROSS JOIN LATERAL (
        SELECT coalesce((
            SELECT a.host
            FROM scheduler.enrollment AS e
            JOIN scheduler.address AS a
                ON (a.workspace_id, a.address_id) = (e.workspace_id, e.domain_id)
            WHERE p.esp_match <> 'off' AND NOT j.sticky
                AND (e.workspace_id, e.enrollment_id) = (j.workspace_id, j.enrollment_id)
        ), 0) AS host
    ) AS h
    WHERE j.workspace_id = :workspace AND j.state = 'queued' AND j.campaign_id IS NOT NULL
        AND j.due_at > CAST(:after AS timestamptz) AND j.due_at <= CAST(:until AS timestamptz)
) AS q
GROUP BY q.campaign_id, q.mailbox_id, q.host, (q.place - 1) / :most
ORDER BY q.campaign_id, q.mailbox_id, q.host, (q.place - 1) / :most
