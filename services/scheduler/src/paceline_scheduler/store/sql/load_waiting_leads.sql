-- Purpose: of these enrollments' leads, those that another enrollment waits for.
SELECT DISTINCT e.workspace_id, e.lead_id
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[]))
    AS u(workspace_id, enrollment_id)
CROSS JOIN LATERAL (
    SELECT e.workspace_id, e.lead_id FROM scheduler.enrollment AS e
    WHERE (e.workspace_id, e.enrollment_id) = (u.workspace_id, u.enrollment_id) OFFSET 0
) AS e
CROSS JOIN LATERAL (
    SELECT FROM scheduler.enrollment AS o
    WHERE (o.workspace_id, o.lead_id) = (e.workspace_id, e.lead_id)
        AND o.contact_hold AND o.state = 'active' OFFSET 0
) AS o
