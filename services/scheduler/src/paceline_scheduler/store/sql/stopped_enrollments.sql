-- Purpose: a batch of enrollments, still active, of a campaign that was stopped.
SELECT e.enrollment_id
FROM scheduler.enrollment AS e
WHERE e.workspace_id = :workspace AND e.campaign_id = :campaign AND e.state = 'active'
    AND e.enrollment_id > :after
ORDER BY e.enrollment_id
LIMIT :most
