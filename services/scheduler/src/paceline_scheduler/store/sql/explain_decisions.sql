-- Purpose: the newest decisions about an enrollment's jobs, its campaign and the mailboxes that had
-- it, noted within :since..:at.
SELECT d.scope, d.ref, d.reason, d.inputs, d.until, d.times, d.first_at, d.last_at
FROM (
    SELECT d.* FROM scheduler.decision AS d
    WHERE d.workspace_id = :workspace AND d.scope = 'job' AND d.ref = ANY (CAST(:jobs AS bigint[]))
    UNION ALL
    SELECT d.*
    FROM unnest(CAST(:scopes AS text[]), CAST(:refs AS bigint[])) AS u(scope, ref)
    CROSS JOIN LATERAL (
        SELECT d.* FROM scheduler.decision AS d
        WHERE (d.workspace_id, d.scope, d.ref) = (:workspace, u.scope, u.ref)
            AND d.first_at <= :at AND (d.is_open OR d.last_at >= :since)
        ORDER BY d.first_at DESC
        LIMIT :most
    ) AS d
) AS d
WHERE d.first_at <= :at
ORDER BY d.first_at DESC
LIMIT :most
