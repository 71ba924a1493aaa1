-- Purpose: the budgets of some mailboxes, or of all of a workspace (:mailboxes NULL), with whether
-- a gate of the mailbox itself is closed.
SELECT b.workspace_id, b.mailbox_id, b.version, b.is_active, b.tz, b.cadence_ms, b.jitter_min_ms,
    b.jitter_max_ms, b.grace_ms, b.day_cap, b.windows, b.epoch, clock_timestamp() AS db_now,
    CASE WHEN isfinite(b.next_at) THEN b.next_at END AS next_at,
    CASE WHEN isfinite(b.day) THEN b.day END AS day, b.day_used,
    CASE WHEN b.hour_cap <= b.hour_used AND isfinite(b.hour)
        THEN b.hour + interval '1 hour' END AS hour_full_until,
    EXISTS (
        SELECT 1 FROM scheduler.suspension AS s
        WHERE s.workspace_id = b.workspace_id AND s.closed_at IS NULL
            AND (s.until IS NULL OR s.until > clock_timestamp())
            AND (s.scope, s.ref) IN (('workspace', b.workspace_id), ('mailbox', b.mailbox_id),
                ('domain', b.domain_ref))
    ) AS is_suspended
FROM scheduler.mailbox_budget AS b
WHERE b.workspace_id = :workspace
    AND (CAST(:mailboxes AS bigint[]) IS NULL OR b.mailbox_id = ANY (CAST(:mailboxes AS bigint[])))
ORDER BY b.mailbox_id
