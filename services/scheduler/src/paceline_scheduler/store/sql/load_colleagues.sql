-- Purpose: the active enrollments of all leads at these recipient domains.
SELECT e.workspace_id, e.enrollment_id
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:domains AS bigint[])) AS u(workspace_id, domain_id)
JOIN scheduler.lead AS l USING (workspace_id, domain_id)
JOIN scheduler.enrollment AS e ON (e.workspace_id, e.lead_id) = (l.workspace_id, l.lead_id)
WHERE e.state = 'active'
