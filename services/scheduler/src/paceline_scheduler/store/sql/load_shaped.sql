-- Purpose: those of these workspaces in which a recipient domain has a budget.
SELECT w.workspace_id FROM unnest(CAST(:workspaces AS bigint[])) AS w(workspace_id)
WHERE EXISTS (
    SELECT FROM scheduler.recipient_budget AS b
    WHERE b.workspace_id = w.workspace_id AND (b.spacing_ms > 0 OR b.day_cap IS NOT NULL))
