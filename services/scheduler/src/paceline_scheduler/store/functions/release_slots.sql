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
    FROM mailbox_budget AS b
    WHERE (b.workspace_id, b.mailbox_id) IN (
        SELECT s.workspace_id, s.mailbox_id
        FROM unnest(p_workspaces, p_jobs, p_fences) AS r(workspace_id, job_id, fence)
        JOIN slot AS s USING (workspace_id, job_id, fence))
    ORDER BY b.workspace_id, b.mailbox_id
    FOR NO KEY UPDATE OF b;

    WITH ended AS (
        SELECT r.workspace_id, r.job_id, r.fence, r.give_back, s.mailbox_id, s.day, s.hour
        FROM unnest(p_workspaces, p_jobs, p_fences, p_give_back)
            AS r(workspace_id, job_id, fence, give_back)
        JOIN slot AS s USING (workspace_id, job_id, fence)
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
        JOIN mailbox_budget AS b USING (workspace_id, mailbox_id)
        LEFT JOIN returned AS r USING (workspace_id, job_id, fence)
        GROUP BY 1, 2
    )
    UPDATE mailbox_budget AS b
    SET outstanding = b.outstanding - p.leases,
        day_used = b.day_used - p.days,
        hour_used = b.hour_used - p.hours
    FROM per_mailbox AS p
    WHERE (b.workspace_id, b.mailbox_id) = (p.workspace_id, p.mailbox_id);
END $$;
