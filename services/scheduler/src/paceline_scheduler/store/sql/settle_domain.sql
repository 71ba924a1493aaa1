-- Purpose: a recipient domain's jobs are spread by its rule, unless that has changed meanwhile.
UPDATE scheduler.recipient_budget AS b SET is_stale = false
WHERE (b.workspace_id, b.domain_id) = (:workspace, :domain) AND b.spacing_ms = :spacing_ms
    AND b.day_cap IS NOT DISTINCT FROM CAST(:day_cap AS integer)
