-- Purpose: close a gate. p_scope: workspace, campaign, pool, mailbox, domain, enrollment; p_ref its
-- row (a domain's is hashtextextended(domain, 0); a workspace's is its own id). p_until: when it
-- ends by itself, or NULL. Once this commits, no claim within the scope succeeds; leases not yet
-- claimed go back to the queue with their capacity.
-- Idempotent per (scope, ref, reason) while open: the later end of the two holds.
-- A mailbox that failed is tested again, if its policy says so (`recheck`): then the test, not
-- p_until, ends the suspension. Its leases go elsewhere, unless its policy keeps them (`reroute`).
-- Returns the suspension id, NULL for an enrollment that does not exist.
-- Lock order: the gate row, jobs, budgets.
CREATE OR REPLACE FUNCTION scheduler.suspend(
    p_workspace bigint, p_scope text, p_ref bigint, p_reason text, p_until timestamptz,
    p_opened_by text, p_detail text
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler, pg_temp AS $$
DECLARE
    v_id bigint;
    v_now timestamptz;
    v_jobs bigint[];
    v_fences integer[];
    v_policy jsonb;
    v_recheck jsonb;
BEGIN
    IF p_scope = 'enrollment' THEN
        PERFORM 1 FROM enrollment AS e
        WHERE (e.workspace_id, e.enrollment_id) = (p_workspace, p_ref) FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    ELSE
        INSERT INTO gate (workspace_id, scope, ref) VALUES (p_workspace, p_scope, p_ref)
        ON CONFLICT DO NOTHING;
        PERFORM 1 FROM gate AS g
        WHERE (g.workspace_id, g.scope, g.ref) = (p_workspace, p_scope, p_ref)
        FOR NO KEY UPDATE;
    END IF;
    v_now := clock_timestamp();

    UPDATE suspension AS s SET closed_at = s.until, closed_by = 'expiry'
    WHERE (s.workspace_id, s.scope, s.ref, s.reason) = (p_workspace, p_scope, p_ref, p_reason)
        AND s.closed_at IS NULL AND s.until <= v_now;
    UPDATE suspension AS s
    SET until = CASE WHEN s.until IS NULL OR p_until IS NULL THEN NULL
        ELSE greatest(s.until, p_until) END
    WHERE (s.workspace_id, s.scope, s.ref, s.reason) = (p_workspace, p_scope, p_ref, p_reason)
        AND s.closed_at IS NULL
    RETURNING s.suspension_id INTO v_id;
    IF FOUND THEN
        RETURN v_id;
    END IF;
    IF p_scope = 'mailbox' AND is_node_failure(p_reason) THEN
        SELECT b.policy INTO v_policy FROM mailbox_budget AS b
        WHERE (b.workspace_id, b.mailbox_id) = (p_workspace, p_ref);
        v_recheck := recheck_of(v_policy, p_reason, p_detail);
    END IF;
    IF v_recheck IS NOT NULL THEN
        p_until := NULL;
        INSERT INTO node_recheck AS r (workspace_id, mailbox_id, reason, every_s, next_at, until)
        VALUES (p_workspace, p_ref, p_reason, (v_recheck ->> 'every_s')::integer,
            v_now + (v_recheck ->> 'every_s')::float8 * interval '1 s',
            v_now + (v_recheck ->> 'for_s')::float8 * interval '1 s')
        ON CONFLICT (workspace_id, mailbox_id, reason) DO UPDATE
        SET every_s = excluded.every_s, next_at = excluded.next_at, until = excluded.until,
            attempts = 0, last_code = NULL;
    END IF;
    INSERT INTO suspension (workspace_id, scope, ref, reason, detail, until, opened_by)
    VALUES (p_workspace, p_scope, p_ref, p_reason, p_detail, p_until, p_opened_by)
    RETURNING suspension_id INTO v_id;

    SELECT array_agg(j.job_id), array_agg(j.fence) INTO v_jobs, v_fences
    FROM (
        SELECT j.job_id, j.fence
        FROM send_job AS j
        WHERE j.workspace_id = p_workspace AND j.state = 'reserved'
            AND CASE p_scope
                WHEN 'workspace' THEN true
                WHEN 'campaign' THEN j.campaign_id = p_ref
                WHEN 'pool' THEN j.pool_id = p_ref
                WHEN 'mailbox' THEN j.mailbox_id = p_ref
                WHEN 'enrollment' THEN j.enrollment_id = p_ref
                ELSE j.mailbox_id IN (
                    SELECT b.mailbox_id FROM mailbox_budget AS b
                    WHERE b.workspace_id = p_workspace AND b.domain_ref = p_ref)
            END
        ORDER BY j.job_id
        FOR UPDATE OF j
    ) AS j;
    IF v_policy -> 'reroute' = 'false' THEN
        UPDATE send_job AS j SET sticky = true
        WHERE j.workspace_id = p_workspace AND j.job_id = ANY (v_jobs) AND j.pool_id IS NOT NULL;
    END IF;
    PERFORM requeue_jobs(array_fill(p_workspace, ARRAY[coalesce(cardinality(v_jobs), 0)]),
        v_jobs, v_fences, 'suspended');

    INSERT INTO pace_change (workspace_id, scope, ref) VALUES (p_workspace, p_scope, p_ref);
    PERFORM emit_audit(p_workspace, 'suspension.opened', p_opened_by,
        scope_id(p_workspace, p_scope, p_ref),
        jsonb_build_object('scope', p_scope, 'reason', p_reason, 'until', instant(p_until)));
    RETURN v_id;
END $$;

-- Purpose: open a gate again, for one reason only (NULL: for all). Returns how many it closed.
CREATE OR REPLACE FUNCTION scheduler.resume(
    p_workspace bigint, p_scope text, p_ref bigint, p_reason text, p_closed_by text
) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler, pg_temp AS $$
DECLARE
    v_closed integer;
BEGIN
    IF p_scope = 'enrollment' THEN
        PERFORM 1 FROM enrollment AS e
        WHERE (e.workspace_id, e.enrollment_id) = (p_workspace, p_ref) FOR NO KEY UPDATE;
    ELSE
        PERFORM 1 FROM gate AS g
        WHERE (g.workspace_id, g.scope, g.ref) = (p_workspace, p_scope, p_ref)
        FOR NO KEY UPDATE;
    END IF;
    UPDATE suspension AS s SET closed_at = clock_timestamp(), closed_by = p_closed_by
    WHERE (s.workspace_id, s.scope, s.ref) = (p_workspace, p_scope, p_ref)
        AND s.closed_at IS NULL AND (p_reason IS NULL OR s.reason = p_reason);
    GET DIAGNOSTICS v_closed = ROW_COUNT;
    IF v_closed > 0 THEN
        DELETE FROM node_recheck AS r
        WHERE p_scope = 'mailbox' AND (r.workspace_id, r.mailbox_id) = (p_workspace, p_ref)
            AND (p_reason IS NULL OR r.reason = p_reason);
        INSERT INTO pace_change (workspace_id, scope, ref) VALUES (p_workspace, p_scope, p_ref);
        PERFORM emit_audit(p_workspace, 'suspension.closed', p_closed_by,
            scope_id(p_workspace, p_scope, p_ref),
            jsonb_build_object('scope', p_scope, 'reason', p_reason));
    END IF;
    RETURN v_closed;
END $$;

-- Purpose: the public id of what a suspension is about; a domain has only its hash. Internal.
CREATE OR REPLACE FUNCTION scheduler.scope_id(p_workspace bigint, p_scope text, p_ref bigint)
RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = scheduler, pg_temp AS $$
BEGIN
    RETURN CASE p_scope
        WHEN 'workspace' THEN public_id('ws', p_workspace)
        WHEN 'campaign' THEN public_id('cmp', p_ref)
        WHEN 'pool' THEN public_id('pool', p_ref)
        WHEN 'mailbox' THEN public_id('mbx', p_ref)
        WHEN 'enrollment' THEN public_id('enr', p_ref)
        ELSE 'domain:' || p_ref END;
END $$;
