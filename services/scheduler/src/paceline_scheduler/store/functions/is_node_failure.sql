-- Purpose: whether a mailbox's suspension means that it cannot be sent from: nobody chose to hold it.
-- Internal.
CREATE OR REPLACE FUNCTION scheduler.is_node_failure(p_reason text) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT p_reason IN ('node_failed', 'probe_send_failed', 'probe_read_failed', 'grant_revoked',
        'auth_failed', 'connect_failed', 'sender_refused', 'credential_unreadable',
        'read_auth_failed', 'read_grant_revoked')
$$;

-- Purpose: how a failed mailbox is tested again: {"every_s", "for_s"}, NULL for not at all. Signing in
-- to the sending side proves nothing about inboxes, nor about what is refused after signing in: p_detail
-- of a failed test begins with its code. Internal.
CREATE OR REPLACE FUNCTION scheduler.recheck_of(p_policy jsonb, p_reason text, p_detail text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT '{"every_s": 900, "for_s": 86400}'::jsonb || CASE
        WHEN p_policy ? 'recheck' THEN nullif(p_policy -> 'recheck', 'null') ELSE '{}' END
    WHERE p_policy IS NOT NULL AND p_reason NOT IN ('probe_read_failed', 'read_auth_failed',
            'read_grant_revoked', 'sender_refused')
        AND coalesce(split_part(p_detail, ':', 1), '') NOT IN ('sender_refused', 'message_refused')
$$;
