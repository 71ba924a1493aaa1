-- Purpose: insert issues, or count them where subject and code are known; the latest detail stays.
-- In: parallel arrays workspaces, subjects, codes, severities, details, sources, raised.
INSERT INTO gateway.issue (
    workspace_id, subject, code, severity, detail, source, times, first_at, last_at
)
SELECT
    workspace_id, subject, code,
    (array_agg(severity ORDER BY raised_at DESC, n DESC))[1],
    (array_agg(detail ORDER BY raised_at DESC, n DESC))[1],
    (array_agg(source ORDER BY raised_at DESC, n DESC))[1],
    count(*), min(raised_at), max(raised_at)
FROM unnest(
    CAST(:workspaces AS bigint[]), CAST(:subjects AS text[]), CAST(:codes AS text[]),
    CAST(:severities AS text[]), CAST(:details AS text[]), CAST(:sources AS text[]),
    CAST(:raised AS timestamptz[])
) WITH ORDINALITY
    AS e (workspace_id, subject, code, severity, detail, source, raised_at, n)
GROUP BY workspace_id, subject, code
-- One order, so that two batches never wait for each other in a circle.
ORDER BY workspace_id, subject, code
ON CONFLICT (workspace_id, subject, code) DO UPDATE SET
    times = issue.times + excluded.times,
    first_at = least(issue.first_at, excluded.first_at),
    last_at = greatest(issue.last_at, excluded.last_at),
    severity = CASE WHEN excluded.last_at >= issue.last_at
        THEN excluded.severity ELSE issue.severity END,
    detail = CASE WHEN excluded.last_at >= issue.last_at
        THEN excluded.detail ELSE issue.detail END,
    source = CASE WHEN excluded.last_at >= issue.last_at
        THEN excluded.source ELSE issue.source END
