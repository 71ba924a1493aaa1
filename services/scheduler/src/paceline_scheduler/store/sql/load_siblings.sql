-- Purpose: what is known of the leads of these addresses, which the caller has locked: when they
-- were contacted last and by which campaign, and all their enrollments as arrays.
SELECT l.workspace_id, l.address_id, l.lead_id, l.contacted_at, l.contacted_campaign_id,
    coalesce(s.enrollments, '{}') AS enrollments, coalesce(s.campaigns, '{}') AS campaigns,
    coalesce(s.actives, '{}') AS actives, coalesce(s.alones, '{}') AS alones,
    coalesce(s.waits, '{}') AS waits
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:addresses AS bigint[]))
    AS u(workspace_id, address_id)
-- One lookup by key each, whatever the planner knows of the tables' sizes.
CROSS JOIN LATERAL (
    SELECT * FROM scheduler.lead AS l
    WHERE (l.workspace_id, l.address_id) = (u.workspace_id, u.address_id) OFFSET 0
) AS l
CROSS JOIN LATERAL (
    SELECT array_agg(e.enrollment_id) AS enrollments, array_agg(e.campaign_id) AS campaigns,
        array_agg(e.state = 'active') AS actives,
        array_agg(NOT coalesce(p.allow_parallel, false)) AS alones,
        array_agg(e.contact_hold) AS waits
    FROM scheduler.enrollment AS e
    LEFT JOIN scheduler.campaign_policy AS p USING (workspace_id, campaign_id)
    WHERE (e.workspace_id, e.lead_id) = (l.workspace_id, l.lead_id)
) AS s
