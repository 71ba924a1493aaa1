-- Purpose: those of these enrollments that still wait for another campaign, locked; what somebody
-- else holds just now is left for the next look.
SELECT e.workspace_id, e.enrollment_id, e.campaign_id, e.address_id
FROM scheduler.enrollment AS e
WHERE (e.workspace_id, e.enrollment_id) IN (
        SELECT * FROM unnest(CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[])))
    AND e.contact_hold AND e.state = 'active'
ORDER BY e.workspace_id, e.enrollment_id
FOR NO KEY UPDATE OF e SKIP LOCKED
