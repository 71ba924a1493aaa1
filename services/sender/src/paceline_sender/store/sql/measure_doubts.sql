-- Purpose: the ages of open doubts, in seconds (as worker: all tenants). Out: counts and the oldest.
SELECT
    count(*) FILTER (WHERE age < 900) AS quarter,
    count(*) FILTER (WHERE age >= 900 AND age < 3600) AS hour,
    count(*) FILTER (WHERE age >= 3600 AND age < 86400) AS day,
    count(*) FILTER (WHERE age >= 86400) AS older,
    coalesce(max(age), 0) AS oldest_s
FROM (
    SELECT CAST(extract(epoch FROM clock_timestamp() - d.since) AS double precision) AS age
    FROM sender.doubt AS d
    WHERE d.settled_at IS NULL
) AS open
