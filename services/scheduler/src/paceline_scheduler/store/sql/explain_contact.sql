-- Purpose: which other enrollments have a lead for themselves at :at, the first enrolled first.
SELECT o.enrollment_id, o.campaign_id, o.enrolled_at, o.finished_at
FROM scheduler.enrollment AS o
LEFT JOIN scheduler.campaign_policy AS p
    ON (p.workspace_id, p.campaign_id) = (o.workspace_id, o.campaign_id)
WHERE (o.workspace_id, o.lead_id) = (:workspace, :lead) AND o.enrollment_id <> :enrollment
    AND o.campaign_id <> :campaign AND NOT coalesce(p.allow_parallel, false)
    AND o.enrolled_at <= :at AND (o.finished_at IS NULL OR o.finished_at > :at)
ORDER BY o.contact_hold, o.enrollment_id
LIMIT 1
