-- Purpose: end the leases of jobs whose rows the caller has locked.
-- Each lease ended frees its mailbox's outstanding place; where p_give_back holds, the slot is
-- marked returned and its day and hour get it back, once, if those buckets still run.
-- Lock order: jobs (the caller), then budgets by id. Internal.
CREATE OR REPLACE FUNCTION scheduler.release_slots(
    p_workspaces bigint[], p_jobs bigint[], p_fences integer[], p_give_back boolean[]
) RETURNS void
LANGUAGE plpgsql SET search_path = scheduler, pg_temp AS $$
BEGIN
    IF coalesce(cardinality(p_jobs), 0) = 0 THEN
        RETURN;
    END IF;
    PERFORM 1
    FROM (
        SELECT DISTINCT s.workspace_id, s.mailbox_id
        FROM unnest(p_workspaces, p_jobs, p_fences) AS r(ws, job, fence)
        CROSS JOIN LATERAL (
            SELECT s.workspace_id, s.mailbox_id FROM slot AS s
            WHERE (s.workspace_id, s.job_id, s.fence) = (r.ws, r.job, r.fence) OFFSET 0
        ) AS s
        ORDER BY 1, 2
    ) AS w
    CROSS JOIN LATERAL (
        SELECT 1 FROM mailbox_budget AS b
        WHERE (b.workspace_id, b.mailbox_id) = (w.workspace_id, w.mailbox_id)
        FOR NO KEY UPDATE OF b
    ) AS locked;

    WITH ended AS (
        SELECT r.workspace_id, r.job_id, r.fence, r.give_back, s.mailbox_id, s.day, s.hour
        FROM unnest(p_workspaces, p_jobs, p_fences, p_give_back)
            AS r(workspace_id, job_id, fence, give_back)
        CROSS JOIN LATERAL (
            SELECT * FROM slot AS s
            WHERE (s.workspace_id, s.job_id, s.fence) = (r.workspace_id, r.job_id, r.fence)
            OFFSET 0
        ) AS s
    ), returned AS (
        UPDATE slot AS s SET returned_at = clock_timestamp()
        FROM ended AS e
        WHERE (s.workspace_id, s.job_id, s.fence) = (e.workspace_id, e.job_id, e.fence)
            AND e.give_back AND s.returned_at IS NULL
        RETURNING s.workspace_id, s.job_id, s.fence
    ), per_mailbox AS (
        SELECT e.workspace_id, e.mailbox_id, count(*)::integer AS leases,
            count(*) FILTER (WHERE r.job_id IS NOT NULL AND e.day = b.day)::integer AS days,
            count(*) FILTER (WHERE r.job_id IS NOT NULL AND e.hour = b.hour)::integer AS hours
        FROM ended AS e
        CROSS JOIN LATERAL (
            SELECT b.day, b.hour FROM mailbox_budget AS b
            WHERE (b.workspace_id, b.mailbox_id) = (e.workspace_id, e.mailbox_id) OFFSET 0
        ) AS b
        LEFT JOIN returned AS r
            ON (r.workspace_id, r.job_id, r.fence) = (e.workspace_id, e.job_id, e.fence)
        GROUP BY 1, 2
    )
    UPDATE mailbox_budget AS b
    SET outstanding = b.outstanding - p.leases,
        day_used = b.day_used - p.days,
        hour_used = b.hour_used - p.hours
    FROM per_mailbox AS p
    WHERE (b.workspace_id, b.mailbox_id) = (p.workspace_id, p.mailbox_id);
END $$;
