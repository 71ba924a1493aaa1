-- Purpose: a workspace's queued jobs with after < due_at <= until as lists, each job of a list for
-- the same campaign, mailbox (of its own) and host, at most :most, in the order they are sent in.
-- The host is that of the recipient's domain where the campaign asks for it.
SELECT q.campaign_id, q.mailbox_id, q.host, array_agg(q.job_id) AS job_ids,
    array_agg(q.due_ms) AS due_ms
FROM (
    SELECT s.*, (row_number() OVER () - 1) / :most AS part
    FROM (
        SELECT j.campaign_id, j.job_id, CASE WHEN j.sticky THEN j.mailbox_id END AS mailbox_id,
            coalesce(h.host, 0) AS host,
            (date_part('epoch', j.due_at) * 1000)::bigint AS due_ms
        FROM scheduler.send_job AS j
        LEFT JOIN (
            SELECT p.campaign_id, e.enrollment_id, a.host
            FROM scheduler.campaign_policy AS p
            JOIN scheduler.enrollment AS e USING (workspace_id, campaign_id)
            JOIN scheduler.address AS a
                ON (a.workspace_id, a.address_id) = (e.workspace_id, e.domain_id)
            WHERE p.workspace_id = :workspace AND p.esp_match <> 'off' AND e.state = 'active'
        ) AS h ON h.enrollment_id = j.enrollment_id AND NOT j.sticky
        WHERE j.workspace_id = :workspace AND j.state = 'queued' AND j.campaign_id IS NOT NULL
            AND j.due_at > CAST(:after AS timestamptz) AND j.due_at <= CAST(:until AS timestamptz)
            -- The same once more, as send_job_queued_idx has it.
            AND date_bin('5 min', j.due_at, timestamptz 'epoch')
                > CAST(:after AS timestamptz) - interval '5 min'
            AND date_bin('5 min', j.due_at, timestamptz 'epoch') <= CAST(:until AS timestamptz)
        ORDER BY j.campaign_id, mailbox_id, host, j.due_at, j.job_id
    ) AS s
) AS q
GROUP BY q.part, q.campaign_id, q.mailbox_id, q.host
ORDER BY q.part
