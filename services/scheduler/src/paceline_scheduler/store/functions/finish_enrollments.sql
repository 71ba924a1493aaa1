-- Purpose: bring enrollments to a final state: cancel their queued and reserved jobs, give the
-- leases back, emit enrollment-finished. A job being sent is left to finish.
-- Only active enrollments end; a finished one may still turn bounced, replied or unsubscribed.
-- Returns those that changed. Lock order: enrollments by id, jobs, budgets. Internal.
CREATE OR REPLACE FUNCTION scheduler.finish_enrollments(
    p_workspaces bigint[], p_enrollments bigint[], p_states text[], p_reasons text[]
) RETURNS TABLE (workspace_id bigint, enrollment_id bigint)
LANGUAGE plpgsql SET search_path = scheduler, pg_temp
-- All lookups are by key: one plan serves every call, and planning costs more than running.
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    v_workspaces bigint[];
    v_jobs bigint[];
    v_fences integer[];
BEGIN
    PERFORM 1
    FROM (
        SELECT DISTINCT u.ws, u.enrollment
        FROM unnest(p_workspaces, p_enrollments) AS u(ws, enrollment) ORDER BY 1, 2
    ) AS w
    CROSS JOIN LATERAL (
        SELECT 1 FROM enrollment AS e
        WHERE (e.workspace_id, e.enrollment_id) = (w.ws, w.enrollment)
        FOR NO KEY UPDATE OF e
    ) AS locked;

    PERFORM 1
    FROM (
        SELECT j.workspace_id, j.job_id
        FROM unnest(p_workspaces, p_enrollments) AS u(ws, enrollment)
        CROSS JOIN LATERAL (
            SELECT j.workspace_id, j.job_id FROM send_job AS j
            WHERE (j.workspace_id, j.enrollment_id) = (u.ws, u.enrollment)
                AND j.state IN ('queued', 'reserved', 'sending', 'in_doubt') OFFSET 0
        ) AS j
        ORDER BY 1, 2
    ) AS w
    CROSS JOIN LATERAL (
        SELECT 1 FROM send_job AS j
        WHERE (j.workspace_id, j.job_id) = (w.workspace_id, w.job_id)
        FOR UPDATE OF j
    ) AS locked;

    WITH asked AS (
        SELECT DISTINCT ON (workspace_id, enrollment_id) workspace_id, enrollment_id, state, reason
        FROM unnest(p_workspaces, p_enrollments, p_states, p_reasons)
            AS a(workspace_id, enrollment_id, state, reason)
    ), held AS (
        SELECT j.workspace_id, j.job_id, j.fence, j.state, a.reason
        FROM asked AS a
        CROSS JOIN LATERAL (
            SELECT * FROM send_job AS j
            WHERE (j.workspace_id, j.enrollment_id) = (a.workspace_id, a.enrollment_id)
                AND j.state IN ('queued', 'reserved') OFFSET 0
        ) AS j
    ), cancelled AS (
        UPDATE send_job AS j
        SET state = 'cancelled', reason = h.reason, updated_at = clock_timestamp()
        FROM held AS h
        WHERE (j.workspace_id, j.job_id) = (h.workspace_id, h.job_id)
    )
    SELECT array_agg(h.workspace_id), array_agg(h.job_id), array_agg(h.fence)
    INTO v_workspaces, v_jobs, v_fences
    FROM held AS h WHERE h.state = 'reserved';
    PERFORM release_slots(v_workspaces, v_jobs, v_fences,
        array_fill(true, ARRAY[coalesce(cardinality(v_jobs), 0)]));

    RETURN QUERY
    WITH asked AS (
        SELECT DISTINCT ON (workspace_id, enrollment_id) workspace_id, enrollment_id, state, reason
        FROM unnest(p_workspaces, p_enrollments, p_states, p_reasons)
            AS a(workspace_id, enrollment_id, state, reason)
    ), changed AS (
        UPDATE enrollment AS e
        SET state = a.state, reason = a.reason, updated_at = clock_timestamp(),
            finished_at = clock_timestamp()
        FROM asked AS a
        WHERE (e.workspace_id, e.enrollment_id) = (a.workspace_id, a.enrollment_id)
            AND (e.state = 'active' OR e.state = 'finished'
                AND a.state IN ('bounced', 'replied', 'unsubscribed'))
        RETURNING e.workspace_id, e.enrollment_id, e.campaign_id, e.state, e.reason, e.finished_at
    ), told AS (
        INSERT INTO outbox (workspace_id, topic, key, type, subject, body)
        SELECT c.workspace_id, 'enrollment-finished', public_id('enr', c.enrollment_id),
            'paceline.enrollment-finished.v1', public_id('enr', c.enrollment_id),
            convert_to(jsonb_build_object(
                'workspace_id', public_id('ws', c.workspace_id),
                'enrollment_id', public_id('enr', c.enrollment_id),
                'campaign_id', public_id('cmp', c.campaign_id),
                'state', c.state, 'reason', c.reason,
                'finished_at', instant(c.finished_at))::text, 'UTF8')
        FROM changed AS c
        ORDER BY c.workspace_id, c.enrollment_id
    )
    SELECT c.workspace_id, c.enrollment_id FROM changed AS c;
END $$;
