-- Purpose: campaigns with an open `stopped` suspension and enrollments that are still active.
SELECT s.workspace_id, s.ref AS campaign_id
FROM scheduler.suspension AS s
WHERE s.scope = 'campaign' AND s.reason = 'stopped' AND s.closed_at IS NULL
    AND EXISTS (
        SELECT 1 FROM scheduler.enrollment AS e
        WHERE e.workspace_id = s.workspace_id AND e.campaign_id = s.ref AND e.state = 'active')
