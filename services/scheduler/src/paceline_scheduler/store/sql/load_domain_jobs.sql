-- Purpose: the queued jobs to a recipient domain that wait for nothing but their turn, in order.
SELECT j.job_id
FROM scheduler.lead AS l
JOIN scheduler.enrollment AS e ON (e.workspace_id, e.lead_id) = (l.workspace_id, l.lead_id)
JOIN scheduler.send_job AS j ON (j.workspace_id, j.job_id) = (e.workspace_id, e.job_id)
WHERE l.workspace_id = :workspace AND l.domain_id = :domain AND j.state = 'queued'
    AND (j.due_at <= clock_timestamp() OR j.reason IN ('recipient_spacing', 'recipient_daily_max'))
ORDER BY j.due_at, j.job_id
