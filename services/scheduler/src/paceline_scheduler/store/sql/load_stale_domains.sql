-- Purpose: recipient domains whose waiting jobs are still spread by an older rule.
SELECT b.workspace_id, b.domain_id, b.spacing_ms, b.day_cap FROM scheduler.recipient_budget AS b
WHERE b.is_stale
LIMIT :most
