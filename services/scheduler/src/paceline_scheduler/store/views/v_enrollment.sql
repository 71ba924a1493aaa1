-- Purpose: where each enrollment stands and, while it is active, what it waits for, as a code of
-- docs/reasons.md: what its own rows tell, so that it can be listed by thousands. waiting_in_queue
-- is told more closely by `explain`, which looks at the mailboxes.
CREATE OR REPLACE VIEW scheduler.v_enrollment WITH (security_barrier) AS
SELECT
    e.workspace_id, e.enrollment_id, e.campaign_id, e.lead_id, l.email, e.state,
    CASE
        WHEN e.state <> 'active' THEN e.reason
        WHEN e.contact_hold THEN 'lead_in_other_campaign'
        WHEN j.job_id IS NULL THEN 'no_steps'
        WHEN j.state = 'sending' THEN 'sending'
        WHEN j.state = 'in_doubt' THEN 'in_doubt'
        WHEN j.state NOT IN ('queued', 'reserved') THEN 'outcome_recorded'
        WHEN s.scope = 'campaign' AND s.reason IN ('not_started', 'paused', 'stopped')
            THEN 'campaign_' || s.reason
        WHEN s.scope = 'mailbox' AND s.reason IN (
                'cooldown', 'grant_revoked', 'app_refused', 'app_limited')
            THEN s.reason
        -- As `is_node_failure` says; a view's reader may not call it.
        WHEN s.scope = 'mailbox' AND s.reason IN ('node_failed', 'probe_send_failed',
            'probe_read_failed', 'auth_failed', 'connect_failed', 'sender_refused',
            'credential_unreadable', 'read_auth_failed', 'read_grant_revoked') THEN 'node_failed'
        WHEN s.scope IS NOT NULL THEN s.scope || '_suspended'
        WHEN j.state = 'reserved' THEN 'slot_reserved'
        WHEN j.due_at > clock_timestamp() THEN CASE
            WHEN j.reason IN ('recipient_spacing', 'recipient_daily_max', 'min_days_between')
                THEN j.reason
            WHEN j.first_deferred_at IS NOT NULL THEN 'waiting_for_retry'
            ELSE 'waiting_for_due' END
        WHEN j.sticky AND NOT b.is_active THEN 'waiting_for_sender'
        WHEN j.sticky AND d.reason <> 'open' AND d.until > clock_timestamp() THEN d.reason
        ELSE 'waiting_in_queue'
    END AS reason,
    e.step, coalesce(j.mailbox_id, e.mailbox_id) AS mailbox_id, e.enrolled_at, e.updated_at,
    j.job_id, j.state AS job_state, j.reason AS job_reason, j.due_at, j.slot_at
FROM scheduler.enrollment AS e
JOIN scheduler.lead AS l USING (workspace_id, lead_id)
LEFT JOIN scheduler.send_job AS j
    ON (j.workspace_id, j.job_id) = (e.workspace_id, e.job_id)
LEFT JOIN scheduler.mailbox_budget AS b
    ON (b.workspace_id, b.mailbox_id) = (j.workspace_id, j.mailbox_id)
LEFT JOIN scheduler.decision AS d
    ON (d.workspace_id, d.scope, d.ref) = (j.workspace_id, 'mailbox', j.mailbox_id)
    AND d.is_open AND d.scope <> 'job' AND j.sticky
LEFT JOIN LATERAL (
    SELECT o.scope, o.reason
    FROM (VALUES (1, 'workspace', e.workspace_id), (2, 'campaign', e.campaign_id),
        (3, 'pool', j.pool_id), (4, 'mailbox', j.mailbox_id), (5, 'domain', b.domain_ref),
        (6, 'enrollment', e.enrollment_id)) AS v(rank, scope, ref)
    JOIN scheduler.suspension AS o
        ON (o.workspace_id, o.scope, o.ref) = (e.workspace_id, v.scope, v.ref)
    WHERE o.closed_at IS NULL AND (o.until IS NULL OR o.until > clock_timestamp())
    ORDER BY v.rank, o.suspension_id
    LIMIT 1
) AS s ON e.state = 'active' AND j.state IN ('queued', 'reserved');
