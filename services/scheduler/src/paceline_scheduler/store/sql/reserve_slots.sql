-- Purpose: lease the proposed slots, all limits enforced here: epoch, one outstanding lease per
-- mailbox (more on nodes), cadence, open stretch, daily cap on the mailbox's local day, hourly cap,
-- campaign type, health floor, rolling 24 h of the provider account, the day of the sending domain,
-- spacing and day of the recipient domain.
-- In: one array entry per proposal; slot and not-after in ms.
-- Out: one row per proposal that is not leased, in order: its place n from 1, and as reason job (it
-- cannot be had now),
-- suspended:<scope>, epoch, mailbox_inactive, clock, stretch (its compiled one is another),
-- rollover (a shared bucket turns over within the batch, or an account is not counted yet), campaign (its policy is unknown), or a
-- limit's code: outstanding, cadence, type_restricted, health_below_floor, hourly_cap, daily_cap,
-- provider_ceiling, domain_budget, recipient_spacing, recipient_daily_max; with what is used of it
-- and its limit, and until when it binds, where the limit is not the mailbox's own.
-- Lock order: jobs (SKIP LOCKED), then budgets by id: mailboxes, accounts, sending domains,
-- recipient domains. What a lock waited for is seen as it is then. A refused proposal leaves
-- nothing behind. Of several that share a budget each counts those ahead of it, leased or not.
WITH proposal AS MATERIALIZED (
    SELECT p.n, p.workspace_id, p.mailbox_id, p.job_id, NULLIF(p.pool_id, 0) AS pool_id, p.epoch,
        to_timestamp(p.slot_ms / 1000.0) AS slot_at,
        to_timestamp(p.not_after_ms / 1000.0) AS not_after, p.draw,
        date_trunc('hour', to_timestamp(p.slot_ms / 1000.0)) AS hour,
        row_number() OVER (PARTITION BY p.workspace_id, p.mailbox_id ORDER BY p.n) AS again,
        row_number() OVER (PARTITION BY p.workspace_id, p.job_id ORDER BY p.n) AS job_again
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]), CAST(:jobs AS bigint[]),
        CAST(:pools AS bigint[]), CAST(:epochs AS bigint[]), CAST(:slots AS bigint[]),
        CAST(:not_afters AS bigint[]), CAST(:draws AS float8[])
    ) WITH ORDINALITY
        AS p(workspace_id, mailbox_id, job_id, pool_id, epoch, slot_ms, not_after_ms, draw, n)
), job AS MATERIALIZED (
    SELECT p.*, j.campaign_id, j.enrollment_id, coalesce(j.pool_id, p.pool_id) AS serves
    FROM proposal AS p
    JOIN scheduler.send_job AS j USING (workspace_id, job_id)
    WHERE p.job_again = 1 AND j.state = 'queued' AND j.due_at <= p.slot_at
        AND (NOT j.sticky OR j.mailbox_id = p.mailbox_id)
    ORDER BY j.workspace_id, j.job_id
    FOR UPDATE OF j SKIP LOCKED
), held AS MATERIALIZED (
    -- Locked and read at once, by key, in the order of the outer rows (see claim_send).
    SELECT j.*, h.*, (j.slot_at AT TIME ZONE h.tz)::date AS day,
        CASE WHEN h.day_now = (j.slot_at AT TIME ZONE h.tz)::date THEN h.day_count ELSE 0 END
            AS day_used,
        CASE WHEN h.hour_now = j.hour THEN h.hour_count ELSE 0 END AS hour_used
    FROM (SELECT * FROM job ORDER BY job.workspace_id, job.mailbox_id) AS j
    CROSS JOIN LATERAL (
        SELECT b.tz, b.domain_ref AS sender_ref, b.account_ref, b.ceiling, b.day_cap, b.hour_cap,
            b.grace_ms, b.open_from, b.open_until, b.is_active, b.epoch AS epoch_now,
            b.day AS day_now, b.day_used AS day_count, b.hour AS hour_now,
            b.hour_used AS hour_count, b.outstanding, b.max_outstanding, b.next_at, b.types,
            b.health, b.health_floor
        FROM scheduler.mailbox_budget AS b
        WHERE (b.workspace_id, b.mailbox_id) = (j.workspace_id, j.mailbox_id)
        FOR NO KEY UPDATE OF b
    ) AS h
), judged AS MATERIALIZED (
    SELECT j.*, e.domain_id AS recipient_ref, c.min_health,
        CASE
            WHEN s.scope IS NOT NULL THEN 'suspended:' || s.scope
            WHEN j.epoch_now <> j.epoch THEN 'epoch'
            WHEN NOT j.is_active OR j.serves IS NULL THEN 'mailbox_inactive'
            WHEN j.not_after <= clock_timestamp()
                OR j.slot_at > clock_timestamp() + interval '5 s' THEN 'clock'
            WHEN j.again > 1 OR j.outstanding >= j.max_outstanding THEN 'outstanding'
            WHEN j.slot_at < j.next_at THEN 'cadence'
            -- A day or hour before the bucket's is over, whatever a zone change makes of it.
            WHEN j.slot_at < j.open_from OR j.slot_at >= j.open_until OR j.day < j.day_now
                OR j.hour < j.hour_now THEN 'stretch'
            WHEN j.campaign_id IS NOT NULL AND c.type IS NULL THEN 'campaign'
            WHEN j.types & c.type = 0 THEN 'type_restricted'
            WHEN j.health_floor AND j.health < c.min_health THEN 'health_below_floor'
            WHEN j.hour_used >= j.hour_cap THEN 'hourly_cap'
            WHEN j.day_used >= j.day_cap THEN 'daily_cap'
        END AS refusal
    FROM held AS j
    LEFT JOIN scheduler.campaign_policy AS c
        ON (c.workspace_id, c.campaign_id) = (j.workspace_id, j.campaign_id)
    -- Seen as of now, not locked: what slips through is refused by the claim.
    LEFT JOIN LATERAL (
        SELECT o.scope
        FROM (VALUES ('workspace', j.workspace_id), ('campaign', j.campaign_id),
            ('pool', j.serves), ('mailbox', j.mailbox_id), ('domain', j.sender_ref),
            ('enrollment', j.enrollment_id)) AS v(scope, ref)
        JOIN scheduler.suspension AS o
            ON (o.workspace_id, o.scope, o.ref) = (j.workspace_id, v.scope, v.ref)
        WHERE o.closed_at IS NULL AND (o.until IS NULL OR o.until > clock_timestamp())
        LIMIT 1
    ) AS s ON true
    -- Not looked up where no recipient's domain has a budget at all.
    LEFT JOIN LATERAL (
        SELECT e.domain_id FROM scheduler.enrollment AS e
        WHERE (e.workspace_id, e.enrollment_id) = (j.workspace_id, j.enrollment_id)
            AND (SELECT EXISTS (SELECT FROM scheduler.recipient_budget)) OFFSET 0
    ) AS e ON true
), account AS MATERIALIZED (
    SELECT j.*, a.ref AS account, a.hour AS account_now,
        -- All hours that touch the 24 before the slot; later ones may have lost the first.
        CASE WHEN j.hour >= a.hour THEN coalesce((
            SELECT sum(u.sent + u.outside)
            FROM (
                SELECT unnest(a.hours[1:a.kept]) AS sent, unnest(a.foreign_hours[1:a.kept]) AS outside
            ) AS u), 0) END AS account_used
    FROM (SELECT * FROM judged AS j WHERE j.refusal IS NULL ORDER BY j.account_ref) AS j
    LEFT JOIN LATERAL (
        SELECT a.account_ref AS ref, a.hour, a.hours, a.foreign_hours,
            25 - least(25, (extract(epoch FROM j.hour) - extract(epoch FROM a.hour)) / 3600)::integer
                AS kept
        FROM scheduler.account_budget AS a
        WHERE a.account_ref = j.account_ref
        FOR NO KEY UPDATE OF a
    ) AS a ON true
), domain AS (
    SELECT j.*, d.*, (j.slot_at AT TIME ZONE d.domain_tz)::date AS domain_day
    FROM (SELECT * FROM account AS j ORDER BY j.workspace_id, j.sender_ref) AS j
    LEFT JOIN LATERAL (
        SELECT d.domain_ref, d.day_cap AS domain_cap, d.tz AS domain_tz, d.day AS domain_now,
            d.day_used AS domain_count
        FROM scheduler.domain_budget AS d
        WHERE (d.workspace_id, d.domain_ref) = (j.workspace_id, j.sender_ref)
        FOR NO KEY UPDATE OF d
    ) AS d ON true
), shared AS (
    SELECT j.*, r.*, (j.slot_at AT TIME ZONE r.recipient_tz)::date AS recipient_day
    FROM (SELECT * FROM domain AS j ORDER BY j.workspace_id, j.recipient_ref) AS j
    LEFT JOIN LATERAL (
        SELECT r.domain_id AS recipient, r.day_cap AS recipient_cap, r.tz AS recipient_tz,
            r.day AS recipient_now, r.day_used AS recipient_count, r.spacing_ms,
            r.next_at AS recipient_at
        FROM scheduler.recipient_budget AS r
        WHERE (r.workspace_id, r.domain_id) = (j.workspace_id, j.recipient_ref)
        FOR NO KEY UPDATE OF r
    ) AS r ON true
), ranked AS (
    SELECT s.*, row_number() OVER account AS account_rank, min(s.hour) OVER account AS account_first,
        row_number() OVER domain AS domain_rank, min(s.domain_day) OVER domain AS domain_first,
        CASE WHEN s.domain_now = s.domain_day THEN s.domain_count ELSE 0 END AS domain_used,
        row_number() OVER recipient AS recipient_rank,
        min(s.recipient_day) OVER recipient AS recipient_first,
        CASE WHEN s.recipient_now = s.recipient_day THEN s.recipient_count ELSE 0 END
            AS recipient_used,
        greatest(s.recipient_at, min(s.slot_at) OVER recipient) AS recipient_next
    FROM shared AS s
    WINDOW account AS (PARTITION BY s.account ORDER BY s.slot_at, s.n),
        domain AS (PARTITION BY s.workspace_id, s.domain_ref ORDER BY s.slot_at, s.n),
        recipient AS (PARTITION BY s.workspace_id, s.recipient ORDER BY s.slot_at, s.n)
), weighed AS MATERIALIZED (
    SELECT r.*, least(r.not_after, r.slot_at + interval '1 ms' * r.grace_ms, r.open_until) AS over,
        CASE
            WHEN r.account_used IS NULL AND (r.account IS NOT NULL OR r.ceiling IS NOT NULL)
                OR r.account IS NOT NULL AND r.hour <> r.account_first THEN 'rollover'
            WHEN r.account_used + r.account_rank > r.ceiling THEN 'provider_ceiling'
            WHEN r.domain_day < r.domain_now OR r.domain_day <> r.domain_first THEN 'rollover'
            WHEN r.domain_used + r.domain_rank > r.domain_cap THEN 'domain_budget'
            WHEN r.recipient_day < r.recipient_now OR r.recipient_day <> r.recipient_first
                THEN 'rollover'
            WHEN r.spacing_ms > 0 AND (r.slot_at < r.recipient_at OR r.recipient_rank > 1)
                THEN 'recipient_spacing'
            WHEN r.recipient_used + r.recipient_rank > r.recipient_cap THEN 'recipient_daily_max'
        END AS verdict
    FROM ranked AS r
), granted AS MATERIALIZED (
    SELECT w.n, w.workspace_id, w.mailbox_id, w.job_id, w.serves, w.campaign_id, w.enrollment_id,
        w.slot_at, w.over, w.draw, w.day, w.day_used, w.day_cap, w.hour, w.hour_used, w.hour_cap,
        w.account, w.account_now, w.account_used, w.account_rank, w.ceiling, w.domain_ref,
        w.domain_day, w.domain_used, w.recipient, w.recipient_day, w.recipient_used
    FROM weighed AS w
    WHERE w.verdict IS NULL
), took AS (
    UPDATE scheduler.mailbox_budget AS b
    SET next_at = g.slot_at + interval '1 ms' * (
            b.cadence_ms + b.jitter_min_ms
            + floor((b.jitter_max_ms - b.jitter_min_ms) * g.draw)::bigint),
        day = g.day, day_used = g.day_used + 1, hour = g.hour, hour_used = g.hour_used + 1,
        outstanding = b.outstanding + 1
    FROM granted AS g
    WHERE (b.workspace_id, b.mailbox_id) = (g.workspace_id, g.mailbox_id)
), charged_accounts AS (
    UPDATE scheduler.account_budget AS a
    SET hour = g.hour,
        hours = CASE WHEN g.hour = a.hour THEN (a.hours[1] + g.slots) || a.hours[2:25]
            ELSE g.slots || array_fill(0, ARRAY[g.turns - 1]) || a.hours[1:25 - g.turns] END,
        foreign_hours = CASE WHEN g.hour = a.hour THEN a.foreign_hours
            ELSE array_fill(0, ARRAY[g.turns]) || a.foreign_hours[1:25 - g.turns] END
    FROM (
        SELECT g.account, g.hour, count(*)::integer AS slots, least(25,
            (extract(epoch FROM g.hour) - extract(epoch FROM g.account_now)) / 3600)::integer
            AS turns
        FROM granted AS g
        GROUP BY g.account, g.hour, g.account_now
    ) AS g
    WHERE a.account_ref = g.account
), charged_domains AS (
    UPDATE scheduler.domain_budget AS d
    SET day = g.day, day_used = g.used
    FROM (
        SELECT g.workspace_id, g.domain_ref, g.domain_day AS day,
            min(g.domain_used) + count(*) AS used
        FROM granted AS g
        GROUP BY 1, 2, 3
    ) AS g
    WHERE (d.workspace_id, d.domain_ref) = (g.workspace_id, g.domain_ref)
), charged_recipients AS (
    UPDATE scheduler.recipient_budget AS r
    SET day = g.day, day_used = g.used,
        next_at = CASE WHEN r.spacing_ms > 0 THEN g.last + interval '1 ms' * r.spacing_ms
            ELSE r.next_at END
    FROM (
        SELECT g.workspace_id, g.recipient, g.recipient_day AS day,
            min(g.recipient_used) + count(*) AS used, max(g.over) AS last
        FROM granted AS g
        GROUP BY 1, 2, 3
    ) AS g
    WHERE (r.workspace_id, r.domain_id) = (g.workspace_id, g.recipient)
), leased AS (
    UPDATE scheduler.send_job AS j
    SET state = 'reserved', mailbox_id = g.mailbox_id, pool_id = g.serves, slot_at = g.slot_at,
        not_after = g.over, reason = NULL, updated_at = clock_timestamp()
    FROM granted AS g
    WHERE (j.workspace_id, j.job_id) = (g.workspace_id, g.job_id)
    RETURNING j.step, j.kind, j.fence, j.traceparent, g.*
), slots AS (
    INSERT INTO scheduler.slot (
        workspace_id, job_id, fence, mailbox_id, slot_at, not_after, day, hour, day_used, day_cap,
        hour_used, hour_cap, rolling_used, ceiling, account_ref, domain_ref, domain_day,
        recipient_ref, recipient_day)
    SELECT l.workspace_id, l.job_id, l.fence, l.mailbox_id, l.slot_at, l.over, l.day, l.hour,
        l.day_used + 1, l.day_cap, l.hour_used + 1, l.hour_cap, l.account_used + l.account_rank,
        l.ceiling, l.account, l.domain_ref, l.domain_day, l.recipient, l.recipient_day
    FROM leased AS l
), told AS (
    INSERT INTO scheduler.outbox (workspace_id, topic, key, type, subject, traceparent, body)
    SELECT e.workspace_id, 'send-scheduled', e.mailbox, 'paceline.send-scheduled.v1', e.job,
        e.traceparent,
        -- Put together as text: nothing in it needs an escape.
        convert_to('{"workspace_id":"' || scheduler.public_id('ws', e.workspace_id)
            || '","job_id":"' || e.job || '","mailbox_id":"' || e.mailbox
            || coalesce('","enrollment_id":"' || scheduler.public_id('enr', e.enrollment_id), '')
            || coalesce('","campaign_id":"' || scheduler.public_id('cmp', e.campaign_id), '')
            || '","kind":"' || e.kind || coalesce('","step":' || e.step, '"')
            || ',"fence":' || e.fence || ',"slot_at":"' || scheduler.instant(e.slot_at)
            || '","not_after":"' || scheduler.instant(e.over) || '"}', 'UTF8')
    FROM (
        SELECT l.*, scheduler.public_id('mbx', l.mailbox_id) AS mailbox,
            scheduler.public_id('job', l.job_id) AS job
        FROM leased AS l
        ORDER BY l.n
    ) AS e
)
SELECT p.n, x.reason,
    CASE x.reason
        WHEN 'hourly_cap' THEN j.hour_used WHEN 'daily_cap' THEN j.day_used
        WHEN 'provider_ceiling' THEN w.account_used WHEN 'domain_budget' THEN w.domain_used
        WHEN 'recipient_daily_max' THEN w.recipient_used
        WHEN 'health_below_floor' THEN j.health END AS used,
    CASE x.reason
        WHEN 'hourly_cap' THEN j.hour_cap WHEN 'daily_cap' THEN j.day_cap
        WHEN 'provider_ceiling' THEN w.ceiling WHEN 'domain_budget' THEN w.domain_cap
        WHEN 'recipient_daily_max' THEN w.recipient_cap
        WHEN 'health_below_floor' THEN j.min_health END AS cap,
    CASE x.reason
        WHEN 'domain_budget' THEN (w.domain_day + 1)::timestamp AT TIME ZONE w.domain_tz
        WHEN 'recipient_daily_max' THEN
            (w.recipient_day + 1)::timestamp AT TIME ZONE w.recipient_tz
        WHEN 'recipient_spacing' THEN w.recipient_next
            + interval '1 ms' * w.spacing_ms * (w.recipient_rank - 1) END AS until
FROM proposal AS p
LEFT JOIN judged AS j USING (n)
LEFT JOIN weighed AS w USING (n)
LEFT JOIN job AS o USING (n)
CROSS JOIN LATERAL (VALUES (CASE
    WHEN j.n IS NOT NULL THEN coalesce(j.refusal, w.verdict)
    WHEN o.n IS NULL THEN 'job'
    ELSE 'mailbox_inactive' END)) AS x(reason)
WHERE p.n NOT IN (SELECT g.n FROM granted AS g)
ORDER BY p.n
