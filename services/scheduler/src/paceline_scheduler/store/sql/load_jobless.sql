-- Purpose: a batch of active enrollments of a campaign that have no job though nothing holds them:
-- they were made before it had steps. Locked.
SELECT e.workspace_id, e.enrollment_id, e.campaign_id, e.address_id
FROM scheduler.enrollment AS e
WHERE e.workspace_id = :workspace AND e.campaign_id = :campaign AND e.state = 'active'
    AND e.job_id IS NULL AND NOT e.contact_hold
ORDER BY e.enrollment_id
LIMIT :most
FOR NO KEY UPDATE
