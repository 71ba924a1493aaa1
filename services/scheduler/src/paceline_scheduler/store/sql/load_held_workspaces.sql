-- Purpose: workspaces where an enrollment waits for another campaign.
SELECT DISTINCT e.workspace_id FROM scheduler.enrollment AS e
WHERE e.contact_hold AND e.state = 'active'
