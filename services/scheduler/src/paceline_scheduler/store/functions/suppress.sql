-- Purpose: never contact an address (or a recipient domain) again in this workspace.
-- p_hash: the keyed hash (paceline_common.address). p_enrollment: the one that caused it, or NULL;
-- reason hard_bounce makes it bounced, unsubscribed makes it unsubscribed, any other suppressed.
-- All other open enrollments become suppressed; their queued and reserved jobs are cancelled.
-- Returns the address id. Once this commits, no claim of a job to the address succeeds.
-- One call per transaction, or calls sorted by hash: the locks of several can cross.
CREATE OR REPLACE FUNCTION scheduler.suppress(
    p_workspace bigint, p_kind text, p_hash bytea, p_reason text, p_source text,
    p_enrollment bigint
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler, pg_temp AS $$
DECLARE
    v_address bigint;
    v_enrollments bigint[];
    v_now bigint[];
    v_fresh boolean;
BEGIN
    INSERT INTO address (workspace_id, kind, hash) VALUES (p_workspace, p_kind, p_hash)
    ON CONFLICT DO NOTHING;
    SELECT a.address_id INTO STRICT v_address FROM address AS a
    WHERE (a.workspace_id, a.kind, a.hash) = (p_workspace, p_kind, p_hash);

    -- Enrollments come before addresses in the order of locks, so they are looked up first; one
    -- that arrives before the address is locked sends us round again with its lock released.
    LOOP
        BEGIN
            v_enrollments := open_enrollments(p_workspace, p_kind, v_address, p_enrollment);
            PERFORM 1 FROM enrollment AS e
            WHERE e.workspace_id = p_workspace AND e.enrollment_id = ANY (v_enrollments)
            ORDER BY e.enrollment_id FOR NO KEY UPDATE;
            PERFORM 1 FROM address AS a
            WHERE (a.workspace_id, a.address_id) = (p_workspace, v_address) FOR NO KEY UPDATE;
            v_now := open_enrollments(p_workspace, p_kind, v_address, p_enrollment);
            IF NOT v_now <@ v_enrollments THEN
                RAISE EXCEPTION 'again' USING ERRCODE = 'PL001';
            END IF;
            EXIT;
        EXCEPTION WHEN SQLSTATE 'PL001' THEN
            NULL;
        END;
    END LOOP;

    UPDATE address AS a
    SET suppressed_at = clock_timestamp(), reason = p_reason, source = p_source
    WHERE (a.workspace_id, a.address_id) = (p_workspace, v_address) AND a.suppressed_at IS NULL;
    v_fresh := FOUND;

    PERFORM finish_enrollments(
        array_agg(p_workspace), array_agg(e),
        array_agg(CASE
            WHEN e = p_enrollment AND p_reason = 'hard_bounce' THEN 'bounced'
            WHEN e = p_enrollment AND p_reason = 'unsubscribed' THEN 'unsubscribed'
            ELSE 'suppressed' END),
        array_agg(p_reason))
    FROM unnest(v_now) AS e;

    IF v_fresh THEN
        PERFORM emit(p_workspace, 'address-suppressed', public_id('addr', v_address),
            public_id('addr', v_address), jsonb_build_object(
                'address_id', public_id('addr', v_address), 'kind', p_kind, 'reason', p_reason,
                'suppressed_at', instant(clock_timestamp())));
        PERFORM emit_audit(p_workspace, 'address.suppressed', p_source,
            public_id('addr', v_address),
            jsonb_build_object('kind', p_kind, 'reason', p_reason,
                'enrollment', public_id('enr', p_enrollment)));
    END IF;
    RETURN v_address;
END $$;

-- Purpose: the enrollments a suppression ends: the open ones of the address or domain, and the one
-- that caused it even if its sequence is over. Internal.
CREATE OR REPLACE FUNCTION scheduler.open_enrollments(
    p_workspace bigint, p_kind text, p_address bigint, p_cause bigint
) RETURNS bigint[]
LANGUAGE sql VOLATILE SET search_path = scheduler, pg_temp AS $$
    SELECT coalesce(array_agg(e.enrollment_id), '{}')
    FROM enrollment AS e
    WHERE e.workspace_id = p_workspace AND (
        e.enrollment_id = p_cause
        OR e.state = 'active' AND e.lead_id = ANY (ARRAY(
            SELECT l.lead_id FROM lead AS l
            WHERE l.workspace_id = p_workspace AND p_kind = 'address' AND l.address_id = p_address
            UNION ALL
            SELECT l.lead_id FROM lead AS l
            WHERE l.workspace_id = p_workspace AND p_kind = 'domain' AND l.domain_id = p_address)))
$$;

-- Purpose: allow an address again. false when it was not suppressed. Enrollments stay as they are.
CREATE OR REPLACE FUNCTION scheduler.lift_suppression(
    p_workspace bigint, p_address bigint, p_by text
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler, pg_temp AS $$
DECLARE
    v_kind text;
    v_reason text;
    v_since timestamptz;
BEGIN
    SELECT a.kind, a.reason, a.suppressed_at INTO v_kind, v_reason, v_since FROM address AS a
    WHERE (a.workspace_id, a.address_id) = (p_workspace, p_address) FOR NO KEY UPDATE;
    IF v_since IS NULL THEN
        RETURN false;
    END IF;
    UPDATE address AS a SET suppressed_at = NULL, reason = NULL, source = NULL
    WHERE (a.workspace_id, a.address_id) = (p_workspace, p_address);
    PERFORM emit(p_workspace, 'address-suppressed', public_id('addr', p_address),
        public_id('addr', p_address), jsonb_build_object(
            'address_id', public_id('addr', p_address), 'kind', v_kind, 'reason', v_reason,
            'suppressed_at', instant(v_since), 'lifted', true));
    PERFORM emit_audit(p_workspace, 'address.suppression_lifted', p_by,
        public_id('addr', p_address), jsonb_build_object('kind', v_kind, 'reason', v_reason));
    RETURN true;
END $$;
