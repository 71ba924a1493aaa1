-- Purpose: end the leases of jobs whose rows the caller has locked.
-- Each lease ended frees its mailbox's outstanding place; where p_give_back holds, the slot is
-- marked returned and every budget that counted it gets it back, once, in the slot's own bucket if
-- that still runs: the mailbox's day and hour, the account's hour, the days of the two domains.
-- Lock order: jobs (the caller), then budgets by id: mailboxes, accounts, domains. Internal.
CREATE OR REPLACE FUNCTION scheduler.release_slots(
    p_workspaces bigint[], p_jobs bigint[], p_fences integer[], p_give_back boolean[]
) RETURNS void
LANGUAGE plpgsql SET search_path = scheduler, pg_temp
-- All lookups are by key: one plan serves every call, and planning costs more than running.
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_ws bigint[]; v_account bigint[]; v_hour timestamptz[]; v_domain bigint[];
    v_domain_day date[]; v_recipient bigint[]; v_recipient_day date[]; v_turn integer;
    v_mailbox bigint[]; v_leases integer[];
BEGIN
    IF coalesce(cardinality(p_jobs), 0) = 0 THEN
        RETURN;
    END IF;
    SELECT array_agg(w.workspace_id), array_agg(w.mailbox_id), array_agg(w.leases)
    INTO v_ws, v_mailbox, v_leases
    FROM (
        SELECT s.workspace_id, s.mailbox_id, count(*)::integer AS leases
        FROM unnest(p_workspaces, p_jobs, p_fences) AS r(ws, job, fence)
        CROSS JOIN LATERAL (
            SELECT s.workspace_id, s.mailbox_id FROM slot AS s
            WHERE (s.workspace_id, s.job_id, s.fence) = (r.ws, r.job, r.fence) OFFSET 0
        ) AS s
        GROUP BY 1, 2
        ORDER BY 1, 2
    ) AS w
    CROSS JOIN LATERAL (
        SELECT 1 FROM mailbox_budget AS b
        WHERE (b.workspace_id, b.mailbox_id) = (w.workspace_id, w.mailbox_id)
        FOR NO KEY UPDATE OF b
    ) AS locked;
    -- Mostly nothing is given back.
    IF NOT true = ANY (p_give_back) THEN
        UPDATE mailbox_budget AS b SET outstanding = b.outstanding - u.leases
        FROM unnest(v_ws, v_mailbox, v_leases) AS u(ws, mailbox, leases)
        WHERE (b.workspace_id, b.mailbox_id) = (u.ws, u.mailbox);
        RETURN;
    END IF;

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
        RETURNING s.*
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
    ), freed AS (
        UPDATE mailbox_budget AS b
        SET outstanding = b.outstanding - p.leases,
            day_used = b.day_used - p.days,
            hour_used = b.hour_used - p.hours
        FROM per_mailbox AS p
        WHERE (b.workspace_id, b.mailbox_id) = (p.workspace_id, p.mailbox_id)
    ), told AS (
        -- One that had used up a cap is put off until that ends: it may go on now.
        INSERT INTO pace_change (workspace_id, scope, ref)
        SELECT p.workspace_id, 'capacity', p.mailbox_id
        FROM per_mailbox AS p
        WHERE p.days + p.hours > 0
    )
    SELECT array_agg(r.workspace_id), array_agg(r.account_ref), array_agg(r.hour),
        array_agg(r.domain_ref), array_agg(r.domain_day), array_agg(r.recipient_ref),
        array_agg(r.recipient_day)
    INTO v_ws, v_account, v_hour, v_domain, v_domain_day, v_recipient, v_recipient_day
    FROM returned AS r
    WHERE coalesce(r.account_ref, r.domain_ref, r.recipient_ref) IS NOT NULL;
    IF v_ws IS NULL THEN
        RETURN;
    END IF;

    PERFORM 1
    FROM (SELECT DISTINCT a AS ref FROM unnest(v_account) AS a ORDER BY 1) AS w
    CROSS JOIN LATERAL (
        SELECT 1 FROM account_budget AS a WHERE a.account_ref = w.ref FOR NO KEY UPDATE OF a
    ) AS locked;
    -- Slots of one account may lie in different hours, mostly they do not.
    FOR v_turn IN
        SELECT DISTINCT (extract(epoch FROM a.hour - u.hour) / 3600)::integer
        FROM unnest(v_account, v_hour) AS u(account, hour)
        JOIN account_budget AS a ON a.account_ref = u.account
        WHERE a.hour < u.hour + interval '25 hours' AND a.hour >= u.hour
    LOOP
        UPDATE account_budget AS a
        SET hours[v_turn + 1] = a.hours[v_turn + 1] - u.slots
        FROM (
            SELECT x.account, x.hour, count(*)::integer AS slots
            FROM unnest(v_account, v_hour) AS x(account, hour)
            GROUP BY 1, 2
        ) AS u
        WHERE a.account_ref = u.account AND a.hour = u.hour + v_turn * interval '1 hour';
    END LOOP;

    PERFORM 1
    FROM (SELECT DISTINCT u.ws, u.ref FROM unnest(v_ws, v_domain) AS u(ws, ref) ORDER BY 1, 2) AS w
    CROSS JOIN LATERAL (
        SELECT 1 FROM domain_budget AS d
        WHERE (d.workspace_id, d.domain_ref) = (w.ws, w.ref)
        FOR NO KEY UPDATE OF d
    ) AS locked;
    UPDATE domain_budget AS d SET day_used = d.day_used - u.slots
    FROM (
        SELECT x.ws, x.domain, x.day, count(*)::integer AS slots
        FROM unnest(v_ws, v_domain, v_domain_day) AS x(ws, domain, day)
        GROUP BY 1, 2, 3
    ) AS u
    WHERE (d.workspace_id, d.domain_ref, d.day) = (u.ws, u.domain, u.day);

    PERFORM 1
    FROM (
        SELECT DISTINCT u.ws, u.ref FROM unnest(v_ws, v_recipient) AS u(ws, ref) ORDER BY 1, 2
    ) AS w
    CROSS JOIN LATERAL (
        SELECT 1 FROM recipient_budget AS r
        WHERE (r.workspace_id, r.domain_id) = (w.ws, w.ref)
        FOR NO KEY UPDATE OF r
    ) AS locked;
    UPDATE recipient_budget AS r SET day_used = r.day_used - u.slots
    FROM (
        SELECT x.ws, x.recipient, x.day, count(*)::integer AS slots
        FROM unnest(v_ws, v_recipient, v_recipient_day) AS x(ws, recipient, day)
        GROUP BY 1, 2, 3
    ) AS u
    WHERE (r.workspace_id, r.domain_id, r.day) = (u.ws, u.recipient, u.day);
END $$;
