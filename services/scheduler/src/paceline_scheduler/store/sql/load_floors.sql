-- Purpose: the health floors that the campaigns of a workspace ask for, ascending.
SELECT DISTINCT p.min_health FROM scheduler.campaign_policy AS p
WHERE p.workspace_id = :workspace ORDER BY 1
