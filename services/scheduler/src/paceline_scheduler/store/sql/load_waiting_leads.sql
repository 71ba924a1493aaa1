-- Purpose: of these enrollments' leads, those that another enrollment waits for.
SELECT DISTINCT e.workspace_id, e.lead_id
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[]))
    AS u(workspace_id, enrollment_id)
JOIN scheduler.enrollment AS e USING (workspace_id, enrollment_id)
JOIN scheduler.enrollment AS o
    ON (o.workspace_id, o.lead_id) = (e.workspace_id, e.lead_id)
WHERE o.contact_hold AND o.state = 'active'
