-- Purpose: recipient domains of these enrollments, in workspaces where a reply stops the company.
SELECT DISTINCT e.workspace_id, e.domain_id, split_part(l.email, '@', 2) AS domain
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[]))
    AS u(workspace_id, enrollment_id)
JOIN scheduler.enrollment AS e USING (workspace_id, enrollment_id)
JOIN scheduler.lead AS l ON (l.workspace_id, l.lead_id) = (e.workspace_id, e.lead_id)
JOIN gateway.v_workspace AS w ON w.workspace_id = e.workspace_id
WHERE CAST(w.contact ->> 'company_stop' AS boolean)
