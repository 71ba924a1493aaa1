-- Purpose: the newest suspensions of some things that were open at any time within :since..:at.
SELECT s.scope, s.ref, s.reason, s.detail, s.until, s.opened_by, s.opened_at,
    CASE WHEN s.closed_at <= :at THEN s.closed_at END AS closed_at,
    CASE WHEN s.closed_at <= :at THEN s.closed_by END AS closed_by,
    scheduler.is_node_failure(s.reason) AS is_failure
FROM unnest(CAST(:scopes AS text[]), CAST(:refs AS bigint[])) AS u(scope, ref)
JOIN scheduler.suspension AS s ON (s.workspace_id, s.scope, s.ref) = (:workspace, u.scope, u.ref)
WHERE s.opened_at <= :at AND (s.closed_at IS NULL OR s.closed_at >= :since)
ORDER BY s.opened_at DESC, s.suspension_id DESC
LIMIT :most
