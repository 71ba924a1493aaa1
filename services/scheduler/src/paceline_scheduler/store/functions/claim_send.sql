-- Purpose: let the sender begin the submission of reserved jobs, or say why it may not.
-- p_workspaces, p_jobs, p_fences: one entry per job. Commit before MAIL FROM.
-- Reasons: stale_fence, not_reserved, too_early, too_late, suppressed, suspended:<scope>,
-- not_running, not_admitted (the mailbox's types or health no longer serve the campaign), unknown
-- (no such job, or a gate row is missing).
-- Every gate the decision reads is a row locked FOR SHARE first, in the one order of the house:
-- workspace, campaign, pool, mailbox, domain, enrollment, address; then the jobs FOR UPDATE; then
-- one statement decides. Its snapshot is younger than the locks (READ COMMITTED), so a suspension
-- or suppression that has committed is always seen.
CREATE OR REPLACE FUNCTION scheduler.claim_send(
    p_workspaces bigint[], p_jobs bigint[], p_fences integer[]
) RETURNS TABLE (
    workspace_id bigint, job_id bigint, claimed boolean, reason text, db_now timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler, pg_temp
-- All lookups are by key: one plan serves every call, and planning costs more than running.
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    v_ws bigint[]; v_job bigint[]; v_fence integer[]; v_again boolean[];
    v_campaign bigint[]; v_pool bigint[]; v_mailbox bigint[]; v_domain bigint[];
    v_enrollment bigint[]; v_address bigint[]; v_address_domain bigint[];
    v_now timestamptz;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'claim_send needs READ COMMITTED'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;

    SELECT array_agg(w.workspace_id), array_agg(w.job_id), array_agg(w.fence),
        array_agg(w.again > 1), array_agg(j.campaign_id), array_agg(j.pool_id),
        array_agg(j.mailbox_id), array_agg(b.domain_ref), array_agg(j.enrollment_id),
        array_agg(e.address_id), array_agg(e.domain_id)
    INTO v_ws, v_job, v_fence, v_again, v_campaign, v_pool, v_mailbox, v_domain, v_enrollment,
        v_address, v_address_domain
    FROM (
        SELECT u.*, row_number() OVER (PARTITION BY u.workspace_id, u.job_id) AS again
        FROM unnest(p_workspaces, p_jobs, p_fences) AS u(workspace_id, job_id, fence)
    ) AS w
    LEFT JOIN LATERAL (
        SELECT * FROM send_job AS j
        WHERE (j.workspace_id, j.job_id) = (w.workspace_id, w.job_id) OFFSET 0
    ) AS j ON true
    LEFT JOIN LATERAL (
        SELECT * FROM enrollment AS e
        WHERE (e.workspace_id, e.enrollment_id) = (j.workspace_id, j.enrollment_id) OFFSET 0
    ) AS e ON true
    LEFT JOIN LATERAL (
        SELECT * FROM mailbox_budget AS b
        WHERE (b.workspace_id, b.mailbox_id) = (j.workspace_id, j.mailbox_id) OFFSET 0
    ) AS b ON true;

    -- Each lock is one lookup by key, in the order of the outer rows, whatever the planner knows of
    -- the tables' sizes (with the tenant policy it may otherwise read a workspace whole).
    PERFORM 1
    FROM (
        SELECT DISTINCT v.rank, u.ws, v.scope, v.ref
        FROM unnest(v_ws, v_campaign, v_pool, v_mailbox, v_domain)
            AS u(ws, campaign, pool, mailbox, domain)
        CROSS JOIN LATERAL (VALUES (1, 'workspace', u.ws), (2, 'campaign', u.campaign),
            (3, 'pool', u.pool), (4, 'mailbox', u.mailbox), (5, 'domain', u.domain))
            AS v(rank, scope, ref)
        WHERE v.ref IS NOT NULL
        ORDER BY v.rank, u.ws, v.ref
    ) AS w
    CROSS JOIN LATERAL (
        SELECT 1 FROM gate AS g
        WHERE (g.workspace_id, g.scope, g.ref) = (w.ws, w.scope, w.ref)
        FOR SHARE OF g
    ) AS locked;

    PERFORM 1
    FROM (
        SELECT DISTINCT u.ws, u.enrollment FROM unnest(v_ws, v_enrollment) AS u(ws, enrollment)
        ORDER BY 1, 2
    ) AS w
    CROSS JOIN LATERAL (
        SELECT 1 FROM enrollment AS e
        WHERE (e.workspace_id, e.enrollment_id) = (w.ws, w.enrollment)
        FOR SHARE OF e
    ) AS locked;

    PERFORM 1
    FROM (
        SELECT u.ws, u.address FROM unnest(v_ws, v_address) AS u(ws, address)
        UNION
        SELECT u.ws, u.address FROM unnest(v_ws, v_address_domain) AS u(ws, address)
        ORDER BY 1, 2
    ) AS w
    CROSS JOIN LATERAL (
        SELECT 1 FROM address AS a
        WHERE (a.workspace_id, a.address_id) = (w.ws, w.address)
        FOR SHARE OF a
    ) AS locked;

    PERFORM 1
    FROM (
        SELECT DISTINCT u.ws, u.job FROM unnest(v_ws, v_job) AS u(ws, job) ORDER BY 1, 2
    ) AS w
    CROSS JOIN LATERAL (
        SELECT 1 FROM send_job AS j
        WHERE (j.workspace_id, j.job_id) = (w.ws, w.job)
        FOR UPDATE OF j
    ) AS locked;

    v_now := clock_timestamp();
    RETURN QUERY
    WITH wanted AS MATERIALIZED (
        SELECT *
        FROM unnest(v_ws, v_job, v_fence, v_again, v_campaign, v_pool, v_mailbox, v_domain,
            v_enrollment, v_address, v_address_domain)
            AS u(ws, job, fence, again, campaign, pool, mailbox, domain, enrollment, address,
                address_domain)
    ), judged AS MATERIALIZED (
        SELECT w.ws, w.job,
            CASE
                WHEN j.job_id IS NULL THEN 'unknown'
                WHEN j.fence <> w.fence THEN 'stale_fence'
                WHEN j.state <> 'reserved' OR w.again THEN 'not_reserved'
                -- Reserved anew between the first look and the lock: other gates would hold.
                WHEN (j.campaign_id, j.pool_id, j.mailbox_id)
                    IS DISTINCT FROM (w.campaign, w.pool, w.mailbox) THEN 'stale_fence'
                WHEN b.mailbox_id IS NULL OR missing.one THEN 'unknown'
                WHEN v_now < j.slot_at - interval '50 ms' THEN 'too_early'
                WHEN v_now > j.not_after THEN 'too_late'
                WHEN a.suppressed_at IS NOT NULL OR d.suppressed_at IS NOT NULL THEN 'suppressed'
                WHEN suspended.scope IS NOT NULL THEN 'suspended:' || suspended.scope
                WHEN e.state <> 'active' OR NOT b.is_active THEN 'not_running'
                -- Both change under gates that are held here: a lease made by older settings ends.
                WHEN b.types & c.type = 0 OR b.health_floor AND b.health < c.min_health
                    THEN 'not_admitted'
            END AS refusal
        FROM wanted AS w
        LEFT JOIN LATERAL (
            SELECT * FROM send_job AS j
            WHERE (j.workspace_id, j.job_id) = (w.ws, w.job) OFFSET 0
        ) AS j ON true
        LEFT JOIN LATERAL (
            SELECT * FROM mailbox_budget AS b
            WHERE (b.workspace_id, b.mailbox_id) = (w.ws, w.mailbox) OFFSET 0
        ) AS b ON true
        LEFT JOIN LATERAL (
            SELECT c.type, c.min_health FROM campaign_policy AS c
            WHERE (c.workspace_id, c.campaign_id) = (w.ws, w.campaign) OFFSET 0
        ) AS c ON true
        LEFT JOIN LATERAL (
            SELECT * FROM enrollment AS e
            WHERE (e.workspace_id, e.enrollment_id) = (w.ws, w.enrollment) OFFSET 0
        ) AS e ON true
        LEFT JOIN LATERAL (
            SELECT * FROM address AS a
            WHERE (a.workspace_id, a.address_id) = (w.ws, w.address) OFFSET 0
        ) AS a ON true
        LEFT JOIN LATERAL (
            SELECT * FROM address AS d
            WHERE (d.workspace_id, d.address_id) = (w.ws, w.address_domain) OFFSET 0
        ) AS d ON true
        CROSS JOIN LATERAL (
            SELECT EXISTS (
                SELECT 1
                FROM (VALUES ('workspace', w.ws), ('campaign', w.campaign), ('pool', w.pool),
                    ('mailbox', w.mailbox), ('domain', w.domain)) AS v(scope, ref)
                LEFT JOIN LATERAL (
                    SELECT g.ref FROM gate AS g
                    WHERE (g.workspace_id, g.scope, g.ref) = (w.ws, v.scope, v.ref) OFFSET 0
                ) AS g ON true
                WHERE v.ref IS NOT NULL AND g.ref IS NULL)
        ) AS missing(one)
        LEFT JOIN LATERAL (
            SELECT s.scope
            FROM (VALUES ('workspace', w.ws), ('campaign', w.campaign), ('pool', w.pool),
                ('mailbox', w.mailbox), ('domain', w.domain), ('enrollment', w.enrollment))
                AS v(scope, ref)
            JOIN suspension AS s ON (s.workspace_id, s.scope, s.ref) = (w.ws, v.scope, v.ref)
            WHERE s.closed_at IS NULL AND (s.until IS NULL OR s.until > v_now)
            LIMIT 1
        ) AS suspended ON true
    ), taken AS (
        UPDATE send_job AS j SET state = 'sending', updated_at = v_now
        FROM judged AS d
        WHERE (j.workspace_id, j.job_id) = (d.ws, d.job) AND d.refusal IS NULL
    )
    SELECT d.ws, d.job, d.refusal IS NULL, d.refusal, v_now FROM judged AS d;
END $$;
