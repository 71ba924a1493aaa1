-- Purpose: the jobs of one enrollment in order, each with its slots (NULL where it has none): one
-- row per slot.
WITH job AS MATERIALIZED (
    SELECT j.* FROM scheduler.send_job AS j
    WHERE j.workspace_id = :workspace AND j.enrollment_id = :enrollment
        AND j.state IN ('queued', 'reserved', 'sending', 'in_doubt')
    UNION ALL
    SELECT j.* FROM scheduler.send_job AS j
    WHERE j.workspace_id = :workspace AND j.enrollment_id = :enrollment
        AND j.state IN ('sent', 'bounced', 'failed', 'cancelled')
)
SELECT j.job_id, j.step, j.state, j.reason, j.due_at, j.updated_at, j.first_deferred_at,
    j.fence, j.sticky, j.mailbox_id, j.pool_id, b.domain_ref, b.tz,
    CASE WHEN NOT b.is_active THEN b.inactive_since END AS inactive_since, s.fence AS slot_fence,
    s.mailbox_id AS slot_mailbox, s.slot_at, s.not_after,
    s.reserved_at, s.returned_at, s.day_used, s.day_cap, s.hour_used, s.hour_cap, s.rolling_used,
    s.ceiling
FROM job AS j
LEFT JOIN scheduler.mailbox_budget AS b
    ON (b.workspace_id, b.mailbox_id) = (j.workspace_id, j.mailbox_id)
LEFT JOIN LATERAL (
    SELECT * FROM scheduler.slot AS s
    WHERE (s.workspace_id, s.job_id) = (j.workspace_id, j.job_id) OFFSET 0
) AS s ON true
ORDER BY j.step, j.job_id, s.fence
