-- Purpose: the budgets of some mailboxes, or of all of a workspace (:mailboxes NULL), with what
-- their stretches are compiled from, what is used of their limits, the reason of an open suspension
-- (of workspace, mailbox or domain) and when the last one was closed within the last hour.
WITH reopened AS MATERIALIZED (
    SELECT s.scope, s.ref, max(s.closed_at) AS closed_at
    FROM scheduler.suspension AS s
    WHERE s.workspace_id = :workspace AND s.scope IN ('workspace', 'mailbox', 'domain')
        AND s.closed_at > clock_timestamp() - interval '1 hour'
    GROUP BY 1, 2
), held AS MATERIALIZED (
    SELECT s.scope, s.ref, min(s.reason) AS reason,
        CASE WHEN bool_and(s.until IS NOT NULL) THEN max(s.until) END AS until
    FROM scheduler.suspension AS s
    WHERE s.workspace_id = :workspace AND s.scope IN ('workspace', 'mailbox', 'domain')
        AND s.closed_at IS NULL AND (s.until IS NULL OR s.until > clock_timestamp())
    GROUP BY 1, 2
)
SELECT b.workspace_id, b.mailbox_id, b.version, b.revision, b.is_active, b.inactive_since, b.tz,
    b.tz AS timezone, b.policy, b.provider, b.country, b.region, b.connected_at, b.domain,
    b.domain_ref, b.account_ref, b.ceiling, b.cadence_ms, b.jitter_min_ms, b.jitter_max_ms,
    b.grace_ms, b.hour_cap, b.epoch, b.outstanding, b.max_outstanding, b.types, b.host, b.health,
    b.health_floor, CASE WHEN b.health_version > 0 THEN b.stage END AS stage, b.throttled_until,
    b.day_cap,
    CASE WHEN isfinite(b.open_from) THEN b.open_from END AS open_from,
    CASE WHEN isfinite(b.open_until) THEN b.open_until END AS open_until,
    CASE WHEN isfinite(b.next_at) THEN b.next_at END AS next_at,
    CASE WHEN isfinite(b.day) THEN b.day END AS day, b.day_used,
    CASE WHEN isfinite(b.hour) THEN b.hour END AS hour, b.hour_used,
    CASE WHEN isfinite(a.hour) THEN a.hour END AS rolling_hour, a.hours AS rolling,
    a.foreign_hours AS rolling_foreign,
    d.day_cap AS domain_cap, d.tz AS domain_tz,
    CASE WHEN isfinite(d.day) THEN d.day END AS domain_day, d.day_used AS domain_used,
    s.scope AS suspended_scope, s.reason AS suspended_reason, s.until AS suspended_until,
    s.scope IS NOT NULL AS is_suspended,
    (
        SELECT max(r.closed_at) FROM reopened AS r
        WHERE (r.scope, r.ref) IN (('workspace', b.workspace_id), ('mailbox', b.mailbox_id),
            ('domain', b.domain_ref))
    ) AS reopened_at,
    clock_timestamp() AS db_now
FROM scheduler.mailbox_budget AS b
LEFT JOIN scheduler.account_budget AS a
    ON a.account_ref = b.account_ref AND b.ceiling IS NOT NULL
LEFT JOIN scheduler.domain_budget AS d
    ON (d.workspace_id, d.domain_ref) = (b.workspace_id, b.domain_ref)
LEFT JOIN LATERAL (
    SELECT h.scope, h.reason, h.until
    FROM held AS h
    WHERE (h.scope, h.ref) IN (('workspace', b.workspace_id), ('mailbox', b.mailbox_id),
        ('domain', b.domain_ref))
    ORDER BY h.until DESC NULLS FIRST, h.scope
    LIMIT 1
) AS s ON true
WHERE b.workspace_id = :workspace
    AND (CAST(:mailboxes AS bigint[]) IS NULL OR b.mailbox_id = ANY (CAST(:mailboxes AS bigint[])))
ORDER BY b.mailbox_id
