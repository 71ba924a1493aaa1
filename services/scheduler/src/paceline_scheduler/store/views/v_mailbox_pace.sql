-- Purpose: how far each mailbox is in its day, its hour, its account's last 24 hours, and what it
-- waits for. day_used and hour_used count the present (mailbox-local) day and hour only. day_cap is
-- today's: that of the compiled stretch, or that of the cap that holds the mailbox; NULL where
-- nothing is open today. reason is a code of docs/reasons.md, `open` for none, NULL when nobody has
-- looked yet.
CREATE OR REPLACE VIEW scheduler.v_mailbox_pace WITH (security_barrier) AS
SELECT
    b.workspace_id, b.mailbox_id, CASE WHEN isfinite(b.next_at) THEN b.next_at END AS next_at,
    t.today AS day, CASE WHEN b.day = t.today THEN b.day_used ELSE 0 END AS day_used,
    CASE
        WHEN isfinite(b.open_from) AND (b.open_from AT TIME ZONE b.tz)::date = t.today
            THEN b.day_cap
        WHEN d.until > t.now AND d.reason IN (
            'daily_cap', 'ramp_cap', 'probation_cap', 'throttled_cap', 'daily_cap_zero')
            THEN (d.inputs ->> 'limit')::integer
    END AS day_cap,
    b.outstanding,
    CASE WHEN b.hour = date_trunc('hour', t.now) THEN b.hour_used ELSE 0 END AS hour_used,
    b.hour_cap,
    CASE WHEN b.ceiling IS NOT NULL THEN coalesce((
        SELECT sum(u.sent + u.outside)::integer
        FROM unnest(a.hours, a.foreign_hours) WITH ORDINALITY AS u(sent, outside, n)
        WHERE a.hour - (u.n - 1) * interval '1 hour' > t.now - interval '25 hours'
    ), 0) END AS rolling_used,
    b.ceiling,
    CASE WHEN d.reason = 'open' OR d.until IS NULL OR d.until > t.now THEN d.reason
        -- The hold is over, and the hours are closed yet.
        WHEN CAST(d.inputs ->> 'opens' AS timestamptz) > t.now THEN 'outside_window'
        ELSE 'open' END AS reason,
    CASE WHEN d.until > t.now THEN d.until
        WHEN d.reason <> 'open' AND CAST(d.inputs ->> 'opens' AS timestamptz) > t.now
            THEN CAST(d.inputs ->> 'opens' AS timestamptz) END AS until
FROM scheduler.mailbox_budget AS b
CROSS JOIN LATERAL (
    SELECT c.now, (c.now AT TIME ZONE b.tz)::date AS today
    FROM (SELECT clock_timestamp() AS now OFFSET 0) AS c
) AS t
LEFT JOIN scheduler.account_budget AS a
    ON a.account_ref = b.account_ref AND b.ceiling IS NOT NULL AND isfinite(a.hour)
LEFT JOIN scheduler.decision AS d
    ON (d.workspace_id, d.scope, d.ref) = (b.workspace_id, 'mailbox', b.mailbox_id)
    AND d.is_open AND d.scope <> 'job';
