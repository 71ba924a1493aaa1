-- Purpose: take back the leases of mailboxes that no longer serve what they were made for: inactive,
-- a campaign type they do not serve now, or health below the campaign's floor. The caller has
-- locked the gates of the mailboxes (or of the campaigns), so that nothing is claimed meanwhile,
-- and then changed their budgets (or policies). p_mailboxes, p_campaigns: NULL for any.
-- Returns how many.
CREATE OR REPLACE FUNCTION scheduler.requeue_unadmitted(
    p_workspaces bigint[], p_mailboxes bigint[], p_campaigns bigint[]
) RETURNS integer
LANGUAGE plpgsql SET search_path = scheduler, pg_temp AS $$
DECLARE
    v_ws bigint[]; v_jobs bigint[]; v_fences integer[];
BEGIN
    SELECT array_agg(j.workspace_id), array_agg(j.job_id), array_agg(j.fence)
    INTO v_ws, v_jobs, v_fences
    FROM (
        SELECT j.workspace_id, j.job_id, j.fence
        FROM send_job AS j
        JOIN mailbox_budget AS b USING (workspace_id, mailbox_id)
        LEFT JOIN campaign_policy AS c
            ON (c.workspace_id, c.campaign_id) = (j.workspace_id, j.campaign_id)
        WHERE j.state = 'reserved' AND j.workspace_id = ANY (p_workspaces)
            AND (p_mailboxes IS NULL OR j.mailbox_id = ANY (p_mailboxes))
            AND (p_campaigns IS NULL OR j.campaign_id = ANY (p_campaigns))
            AND (NOT b.is_active OR b.types & c.type = 0
                OR b.health_floor AND b.health < c.min_health)
        ORDER BY j.workspace_id, j.job_id
        -- The budgets are held already: whoever holds a job now and waits for one ends its lease.
        FOR UPDATE OF j SKIP LOCKED
    ) AS j;
    PERFORM requeue_jobs(v_ws, v_jobs, v_fences, 'not_admitted');
    RETURN coalesce(cardinality(v_jobs), 0);
END $$;
