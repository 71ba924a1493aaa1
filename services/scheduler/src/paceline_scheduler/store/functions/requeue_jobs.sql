-- Purpose: take leases that nobody claimed back to the queue: fence + 1, capacity given back, the
-- pacer told. The caller has locked the jobs, all in state reserved. Internal.
CREATE OR REPLACE FUNCTION scheduler.requeue_jobs(
    p_workspaces bigint[], p_jobs bigint[], p_fences integer[], p_reason text
) RETURNS void
LANGUAGE plpgsql SET search_path = scheduler, pg_temp AS $$
BEGIN
    IF coalesce(cardinality(p_jobs), 0) = 0 THEN
        RETURN;
    END IF;
    UPDATE send_job AS j
    SET state = 'queued', fence = j.fence + 1, slot_at = NULL, not_after = NULL,
        mailbox_id = CASE WHEN j.sticky THEN j.mailbox_id END,
        pool_id = CASE WHEN j.sticky THEN j.pool_id END,
        reason = p_reason, updated_at = clock_timestamp()
    FROM unnest(p_workspaces, p_jobs) AS u(ws, job)
    WHERE (j.workspace_id, j.job_id) = (u.ws, u.job) AND j.state = 'reserved';
    PERFORM release_slots(p_workspaces, p_jobs, p_fences,
        array_fill(true, ARRAY[cardinality(p_jobs)]));
    INSERT INTO pace_change (workspace_id, jobs)
    SELECT u.ws, array_agg(u.job) FROM unnest(p_workspaces, p_jobs) AS u(ws, job) GROUP BY u.ws;
END $$;
