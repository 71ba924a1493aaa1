-- Purpose: how many queued first messages of the job's campaign are due before it. The :near
-- numbers on either side of its own are counted. Further down, where numbers follow the order of
-- enrollment, each stretch, twice as long as the last, is sampled. As of :at, if given: what had
-- no slot then.
-- Out: before (the counted part plus the estimate), and whether all of it was counted.
WITH stretch AS (
    SELECT g.n,
        greatest(CAST(:job AS bigint) - CAST(:near AS bigint) * (2 ^ g.n)::bigint, 1) AS low,
        CASE WHEN g.n = 0 THEN CAST(:job AS bigint) + CAST(:near AS bigint)
            ELSE CAST(:job AS bigint) - CAST(:near AS bigint) * (2 ^ (g.n - 1))::bigint END AS high
    FROM generate_series(0, 16) AS g(n)
), point AS (
    SELECT s.n, s.low, s.high, CASE WHEN s.n = 0 THEN s.low
        ELSE s.low + (s.high - s.low) * p.n / :points END AS begins,
        CASE WHEN s.n = 0 THEN 2 * :near ELSE :rows END AS most
    FROM stretch AS s
    CROSS JOIN LATERAL generate_series(0, CASE WHEN s.n = 0 THEN 0 ELSE :points - 1 END) AS p(n)
    WHERE s.high > s.low
), sample AS (
    SELECT p.n, p.high - p.low AS length, r.matching,
        CASE WHEN r.found < p.most THEN p.high ELSE r.last + 1 END - p.begins AS seen
    FROM point AS p
    CROSS JOIN LATERAL (
        SELECT count(*) AS found, max(j.job_id) AS last, count(*) FILTER (
            WHERE j.campaign_id = :campaign AND NOT j.sticky
                AND (j.due_at, j.job_id) < (CAST(:due AS timestamptz), CAST(:job AS bigint))
                AND CASE WHEN CAST(:at AS timestamptz) IS NULL THEN j.state = 'queued'
                    ELSE (j.state <> 'cancelled' OR j.updated_at > :at) AND NOT EXISTS (
                        SELECT FROM scheduler.slot AS s
                        WHERE (s.workspace_id, s.job_id) = (:workspace, j.job_id)
                            AND s.reserved_at <= :at
                            AND (s.returned_at IS NULL OR s.returned_at > :at))
                    END) AS matching
        FROM (
            SELECT j.* FROM scheduler.send_job AS j
            WHERE j.workspace_id = :workspace AND j.job_id >= p.begins AND j.job_id < p.high
            ORDER BY j.job_id
            LIMIT p.most
        ) AS j
    ) AS r
), counted AS (
    SELECT s.n, sum(s.matching) * CASE WHEN s.n = 0 THEN 1
        ELSE max(s.length) / greatest(sum(s.seen), 1) END AS before
    FROM sample AS s
    GROUP BY s.n
)
SELECT coalesce(round(sum(c.before)), 0)::bigint AS before,
    coalesce(sum(c.before) FILTER (WHERE c.n > 0), 0) = 0 AS is_exact
FROM counted AS c
