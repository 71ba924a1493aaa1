-- Purpose: give queued jobs to shaped recipient domains a place each, in order: one spacing after
-- another, past the daily maximum on the next local day. Their due time becomes their place, so that
-- the pacing store looks at none before it may be sent.
-- In: the jobs, and why: enter (new in the queue, behind all others of the domain), again (refused a
-- slot: behind the others that were, from the next instant the domain is free), anew (the rule has
-- changed: where they were spread to no longer counts; the store is told).
-- Lock order: jobs (SKIP LOCKED), then budgets by id.
WITH asked AS MATERIALIZED (
    SELECT j.workspace_id, j.job_id, j.due_at, j.reason, e.domain_id,
        CASE WHEN CAST(:why AS text) = 'anew' THEN least(j.due_at, statement_timestamp())
            ELSE j.due_at END AS wanted_at
    FROM unnest(CAST(:workspaces AS bigint[]), CAST(:jobs AS bigint[]))
        AS u(workspace_id, job_id)
    JOIN scheduler.send_job AS j USING (workspace_id, job_id)
    JOIN scheduler.enrollment AS e
        ON (e.workspace_id, e.enrollment_id) = (j.workspace_id, j.enrollment_id)
    JOIN scheduler.recipient_budget AS b
        ON (b.workspace_id, b.domain_id) = (e.workspace_id, e.domain_id)
    WHERE j.state = 'queued'
        AND (b.spacing_ms > 0 OR b.day_cap IS NOT NULL OR CAST(:why AS text) = 'anew')
        -- What comes due later takes its place then: it must not hold up those before it.
        AND (CAST(:why AS text) <> 'enter' OR j.reason IS NULL
            AND j.due_at <= statement_timestamp() + CAST(:horizon AS interval))
    ORDER BY j.workspace_id, j.job_id
    FOR UPDATE OF j SKIP LOCKED
), budget AS MATERIALIZED (
    SELECT b.*
    FROM scheduler.recipient_budget AS b
    WHERE (b.workspace_id, b.domain_id) IN (SELECT a.workspace_id, a.domain_id FROM asked AS a)
    ORDER BY b.workspace_id, b.domain_id
    FOR NO KEY UPDATE OF b
), begun AS (
    SELECT b.workspace_id, b.domain_id, b.tz, b.day_cap, interval '1 ms' * b.spacing_ms AS spacing,
        b.spacing_ms, b.day, b.day_used, b.cursor_at, b.cursor_used,
        greatest(statement_timestamp(), b.next_at,
            CASE WHEN CAST(:why AS text) = 'again' THEN b.retry_at ELSE b.cursor_at END) AS start_at
    FROM budget AS b
), dated AS (
    SELECT b.*, (b.start_at AT TIME ZONE b.tz)::date AS start_day,
        -- The cursor stands one spacing behind the last place given.
        CASE WHEN CAST(:why AS text) <> 'again' AND isfinite(b.cursor_at)
            THEN ((b.cursor_at - b.spacing) AT TIME ZONE b.tz)::date END AS cursor_day
    FROM begun AS b
), base AS MATERIALIZED (
    SELECT b.*, u.used,
        -- How many more fit in the first day, and in each after it (the shortest has 23 hours).
        greatest(0, least(b.day_cap - u.used, CASE WHEN b.spacing_ms > 0 THEN
            ceil(extract(epoch FROM (b.start_day + 1)::timestamp AT TIME ZONE b.tz - b.start_at)
                * 1000 / b.spacing_ms) END))::bigint AS first,
        CASE WHEN b.day_cap > 0 THEN
            greatest(1, least(b.day_cap, CASE WHEN b.spacing_ms > 0
                THEN 82800000 / b.spacing_ms END)) ELSE 2147483647 END::bigint AS per_day
    FROM dated AS b
    CROSS JOIN LATERAL (
        SELECT greatest(
            CASE WHEN b.cursor_day = b.start_day THEN b.cursor_used END,
            CASE WHEN b.day = b.start_day THEN b.day_used END, 0) AS used
    ) AS u
), ranked AS (
    SELECT a.*, b.tz, b.spacing, b.day_cap, b.start_at, b.start_day, b.used, b.first, b.per_day,
        row_number() OVER (PARTITION BY a.workspace_id, a.domain_id ORDER BY a.due_at, a.job_id)
            - 1 AS i
    FROM asked AS a
    JOIN base AS b USING (workspace_id, domain_id)
), placed AS MATERIALIZED (
    SELECT r.*, p.is_later, p.at,
        CASE WHEN p.is_later THEN (r.i - r.first) % r.per_day + 1 ELSE r.used + r.i + 1 END
            AS day_used,
        p.at > greatest(r.wanted_at, statement_timestamp()) AS is_moved
    FROM ranked AS r
    CROSS JOIN LATERAL (
        SELECT l.is_later, CASE WHEN l.is_later
            THEN (r.start_day + 1 + ((r.i - r.first) / r.per_day)::integer)::timestamp
                AT TIME ZONE r.tz + r.spacing * ((r.i - r.first) % r.per_day)
            ELSE r.start_at + r.spacing * r.i END AS at
        FROM (SELECT r.day_cap IS NOT NULL AND r.i >= r.first AS is_later) AS l
    ) AS p
), moved AS (
    UPDATE scheduler.send_job AS j
    SET due_at = CASE WHEN p.is_moved THEN p.at ELSE p.wanted_at END,
        reason = CASE
            WHEN p.is_moved AND p.is_later THEN 'recipient_daily_max'
            WHEN p.is_moved THEN 'recipient_spacing'
            WHEN p.reason NOT IN ('recipient_spacing', 'recipient_daily_max') THEN p.reason END,
        updated_at = clock_timestamp()
    FROM placed AS p
    WHERE (j.workspace_id, j.job_id) = (p.workspace_id, p.job_id)
        AND (p.is_moved OR p.due_at <> p.wanted_at OR p.reason IS NOT NULL)
), advanced AS (
    UPDATE scheduler.recipient_budget AS b
    SET cursor_at = CASE WHEN CAST(:why AS text) = 'again' THEN b.cursor_at
            ELSE l.at + l.spacing END,
        cursor_used = CASE WHEN CAST(:why AS text) = 'again' THEN b.cursor_used
            ELSE l.day_used END,
        retry_at = CASE WHEN CAST(:why AS text) = 'again' THEN l.at + l.spacing
            ELSE b.retry_at END
    FROM (
        SELECT DISTINCT ON (p.workspace_id, p.domain_id) p.workspace_id, p.domain_id, p.at,
            p.spacing, p.day_used
        FROM placed AS p
        ORDER BY p.workspace_id, p.domain_id, p.i DESC
    ) AS l
    WHERE (b.workspace_id, b.domain_id) = (l.workspace_id, l.domain_id)
), told AS (
    INSERT INTO scheduler.pace_change (workspace_id, jobs)
    SELECT p.workspace_id, array_agg(p.job_id ORDER BY p.i) FROM placed AS p
    WHERE CAST(:why AS text) = 'anew'
    GROUP BY p.workspace_id
)
SELECT count(*) FILTER (WHERE is_moved) AS moved FROM placed
