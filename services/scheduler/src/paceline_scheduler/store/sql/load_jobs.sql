-- Purpose: the queued ones among jobs named by id, for the pacing store; `had_turn`: they were in
-- front before something took their slot or their mailbox away.
SELECT j.workspace_id, j.job_id, j.campaign_id,
    CASE WHEN j.sticky THEN j.mailbox_id END AS mailbox_id, coalesce(a.host, 0) AS host,
    floor(extract(epoch FROM j.due_at) * 1000)::bigint AS due_ms,
    coalesce(j.reason IN ('suspended', 'lease_expired', 'not_admitted', 'reassigned',
        'proven_unsent', 'settled_unsent'), false) AS had_turn
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:jobs AS bigint[])) AS u(workspace_id, job_id)
JOIN scheduler.send_job AS j USING (workspace_id, job_id)
LEFT JOIN scheduler.campaign_policy AS p
    ON (p.workspace_id, p.campaign_id) = (j.workspace_id, j.campaign_id)
LEFT JOIN LATERAL (
    SELECT a.host
    FROM scheduler.enrollment AS e
    JOIN scheduler.address AS a ON (a.workspace_id, a.address_id) = (e.workspace_id, e.domain_id)
    WHERE (e.workspace_id, e.enrollment_id) = (j.workspace_id, j.enrollment_id)
    OFFSET 0
) AS a ON p.esp_match <> 'off' AND NOT j.sticky
WHERE j.state = 'queued' AND j.campaign_id IS NOT NULL
ORDER BY j.due_at, j.job_id
