-- Purpose: record what became of submissions, in the caller's transaction.
-- One entry per job. Outcomes: accepted -> sent; deferred -> queued at p_retry_at (capacity
-- spent); rejected -> bounced; failed -> failed, with its enrollment; in_doubt; unsent -> queued
-- at p_retry_at or now (proof that nothing left: capacity is given back); proven_unsent -> queued
-- at p_retry_at, else with the place it had (proof that nothing was accepted: the request may have
-- left, so the capacity stays spent).
-- applied = false where fence or state do not match: repeating a call changes nothing.
-- A job in doubt is settled by accepted, rejected, failed and proven_unsent alone: the words for
-- "try again" of a submission under way (deferred, unsent) are refused, and proven_unsent is for
-- jobs in doubt only. A job that fails while still reserved (its message cannot be built) gives
-- its slot back. What would be queued again for an enrollment that has ended is cancelled.
-- Lock order: enrollments (of failed ones), jobs, budgets.
CREATE OR REPLACE FUNCTION scheduler.finish_send(
    p_workspaces bigint[], p_jobs bigint[], p_fences integer[], p_outcomes text[],
    p_reasons text[], p_retry_at timestamptz[]
) RETURNS TABLE (workspace_id bigint, job_id bigint, applied boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler, pg_temp
-- All lookups are by key: one plan serves every call, and planning costs more than running.
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    v_unknown text;
    v_ws bigint[]; v_job bigint[]; v_fence integer[]; v_was text[]; v_outcome text[];
    v_reason text[]; v_enrollment bigint[]; v_retry timestamptz[];
BEGIN
    SELECT o INTO v_unknown FROM unnest(p_outcomes) AS o
    WHERE o IS NULL
        OR o NOT IN ('accepted', 'deferred', 'rejected', 'failed', 'in_doubt', 'unsent',
            'proven_unsent')
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'unknown outcome ' || coalesce(v_unknown, 'NULL');
    END IF;

    -- Each lock is one lookup by key, in the order of the outer rows (see claim_send).
    IF 'failed' = ANY (p_outcomes) THEN
        PERFORM 1
        FROM (
            SELECT DISTINCT j.workspace_id, j.enrollment_id
            FROM unnest(p_workspaces, p_jobs, p_outcomes) AS u(ws, job, outcome)
            CROSS JOIN LATERAL (
                SELECT j.workspace_id, j.enrollment_id FROM send_job AS j
                WHERE (j.workspace_id, j.job_id) = (u.ws, u.job) OFFSET 0
            ) AS j
            WHERE u.outcome = 'failed'
            ORDER BY 1, 2
        ) AS w
        CROSS JOIN LATERAL (
            SELECT 1 FROM enrollment AS e
            WHERE (e.workspace_id, e.enrollment_id) = (w.workspace_id, w.enrollment_id)
            FOR NO KEY UPDATE OF e
        ) AS locked;
    END IF;

    -- What applies, with the state each job leaves: the lock tells the row's newest version, so
    -- that nobody changes it between the look and the lock. Without the OFFSET a job's state would
    -- be judged before.
    SELECT array_agg(u.workspace_id), array_agg(u.job_id), array_agg(u.fence), array_agg(j.state),
        array_agg(u.outcome), array_agg(u.reason), array_agg(j.enrollment_id),
        array_agg(u.retry_at)
    INTO v_ws, v_job, v_fence, v_was, v_outcome, v_reason, v_enrollment, v_retry
    FROM (
        SELECT DISTINCT ON (workspace_id, job_id, fence) *
        FROM unnest(p_workspaces, p_jobs, p_fences, p_outcomes, p_reasons, p_retry_at)
            AS a(workspace_id, job_id, fence, outcome, reason, retry_at)
        ORDER BY workspace_id, job_id, fence
    ) AS u
    CROSS JOIN LATERAL (
        SELECT j.fence, j.state, j.enrollment_id FROM send_job AS j
        WHERE (j.workspace_id, j.job_id) = (u.workspace_id, u.job_id) OFFSET 0
        FOR UPDATE OF j
    ) AS j
    WHERE j.fence = u.fence AND j.state = ANY (CASE u.outcome
        WHEN 'unsent' THEN ARRAY['reserved', 'sending']
        WHEN 'failed' THEN ARRAY['reserved', 'sending', 'in_doubt']
        WHEN 'accepted' THEN ARRAY['sending', 'in_doubt']
        WHEN 'rejected' THEN ARRAY['sending', 'in_doubt']
        WHEN 'proven_unsent' THEN ARRAY['in_doubt']
        ELSE ARRAY['sending']
    END);

    UPDATE send_job AS j
    SET state = CASE u.outcome
            WHEN 'accepted' THEN 'sent' WHEN 'rejected' THEN 'bounced' WHEN 'failed' THEN 'failed'
            WHEN 'in_doubt' THEN 'in_doubt'
            ELSE CASE WHEN u.ended IS NULL THEN 'queued' ELSE 'cancelled' END END,
        reason = CASE WHEN u.outcome = 'accepted' THEN NULL
            ELSE coalesce(u.ended, u.reason, u.outcome) END,
        updated_at = clock_timestamp(),
        attempts = j.attempts + (u.was = 'sending' AND u.outcome <> 'unsent')::integer,
        fence = j.fence + u.again::integer,
        due_at = CASE WHEN u.outcome = 'proven_unsent' THEN coalesce(u.retry_at, j.due_at)
            WHEN u.again THEN coalesce(u.retry_at, clock_timestamp()) ELSE j.due_at END,
        slot_at = CASE WHEN u.again THEN NULL ELSE j.slot_at END,
        not_after = CASE WHEN u.again THEN NULL ELSE j.not_after END,
        -- Greylisting remembers who asked (RFC 6647 §2): a soft deferral comes back to the
        -- same mailbox. The other classes speak of the mailbox itself.
        sticky = j.sticky OR u.pins,
        mailbox_id = CASE WHEN j.sticky OR u.pins OR NOT u.again THEN j.mailbox_id END,
        pool_id = CASE WHEN j.sticky OR u.pins OR NOT u.again THEN j.pool_id END,
        first_deferred_at = CASE WHEN u.outcome = 'deferred'
            THEN coalesce(j.first_deferred_at, clock_timestamp()) ELSE j.first_deferred_at END
    FROM (
        SELECT x.*, e.ended, x.outcome = 'deferred' AND coalesce(split_part(x.reason, ':', 1)
            NOT IN ('limit', 'auth', 'config', 'block'), true) AS pins,
            x.outcome IN ('deferred', 'unsent', 'proven_unsent') AS again
        FROM unnest(v_ws, v_job, v_was, v_outcome, v_reason, v_retry, v_enrollment)
            AS x(ws, job, was, outcome, reason, retry_at, enrollment)
        -- Whoever ends an enrollment locks its jobs: it came before, or cancels what it then finds.
        LEFT JOIN LATERAL (
            SELECT e.reason AS ended FROM enrollment AS e
            WHERE x.outcome IN ('deferred', 'unsent', 'proven_unsent')
                AND (e.workspace_id, e.enrollment_id) = (x.ws, x.enrollment)
                AND e.state <> 'active' OFFSET 0
        ) AS e ON true
    ) AS u
    WHERE (j.workspace_id, j.job_id) = (u.ws, u.job);

    PERFORM release_slots(array_agg(u.ws), array_agg(u.job), array_agg(u.fence),
        array_agg(u.outcome = 'unsent' OR (u.outcome = 'failed' AND u.was = 'reserved')))
    FROM unnest(v_ws, v_job, v_fence, v_was, v_outcome) AS u(ws, job, fence, was, outcome)
    -- A job in doubt gave its place up when it became so.
    WHERE u.was <> 'in_doubt';

    IF 'failed' = ANY (v_outcome) THEN
        PERFORM finish_enrollments(array_agg(u.ws), array_agg(u.enrollment),
            array_agg('failed'::text), array_agg(coalesce(u.reason, 'failed')))
        FROM unnest(v_ws, v_enrollment, v_outcome, v_reason) AS u(ws, enrollment, outcome, reason)
        WHERE u.outcome = 'failed' AND u.enrollment IS NOT NULL;
    END IF;

    INSERT INTO pace_change (workspace_id, jobs)
    SELECT u.ws, array_agg(u.job)
    FROM unnest(v_ws, v_job, v_outcome) AS u(ws, job, outcome)
    WHERE u.outcome IN ('deferred', 'unsent', 'proven_unsent')
    GROUP BY u.ws;

    RETURN QUERY
    SELECT a.workspace_id, a.job_id, u.job IS NOT NULL
    FROM (
        SELECT x.*, row_number() OVER (PARTITION BY x.workspace_id, x.job_id, x.fence) AS again
        FROM unnest(p_workspaces, p_jobs, p_fences) AS x(workspace_id, job_id, fence)
    ) AS a
    LEFT JOIN unnest(v_ws, v_job, v_fence) AS u(ws, job, fence)
        ON (u.ws, u.job, u.fence) = (a.workspace_id, a.job_id, a.fence) AND a.again = 1;
END $$;
