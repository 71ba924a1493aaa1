-- Purpose: add one event to the outbox. The caller holds the lock of the row it speaks of.
CREATE OR REPLACE FUNCTION scheduler.emit(
    p_workspace bigint, p_topic text, p_key text, p_subject text, p_body jsonb
) RETURNS void
LANGUAGE plpgsql SET search_path = scheduler, pg_temp AS $$
BEGIN
    INSERT INTO outbox (workspace_id, topic, key, type, subject, body)
    VALUES (p_workspace, p_topic, p_key, 'paceline.' || p_topic || '.v1', p_subject,
        convert_to((jsonb_build_object('workspace_id', public_id('ws', p_workspace))
            || p_body)::text, 'UTF8'));
END $$;

-- Purpose: add an audit-recorded event; `p_detail` values are texts.
CREATE OR REPLACE FUNCTION scheduler.emit_audit(
    p_workspace bigint, p_action text, p_actor text, p_subject text, p_detail jsonb
) RETURNS void
LANGUAGE plpgsql SET search_path = scheduler, pg_temp AS $$
BEGIN
    PERFORM emit(p_workspace, 'audit-recorded', public_id('ws', p_workspace), p_subject,
        jsonb_build_object('action', p_action, 'actor', p_actor, 'subject', p_subject,
            'at', instant(clock_timestamp()), 'detail', jsonb_strip_nulls(p_detail)));
END $$;
