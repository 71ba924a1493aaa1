-- Purpose: lease the proposed slots, all limits enforced here: epoch, one outstanding lease per
-- mailbox, cadence, open stretch, daily cap on the mailbox's local day, hourly cap.
-- In: one array entry per proposal; slot and not-after in ms, at most one proposal per mailbox.
-- Out: one row per proposal, in order: reason NULL when leased, else job (it cannot be had now),
-- suspended:<scope>, epoch, inactive, clock, outstanding, cadence, window, day_cap, hour_cap;
-- and the mailbox's authoritative state where its row was locked.
-- Lock order: jobs (SKIP LOCKED), then budgets by id. A refused proposal leaves nothing behind.
WITH proposal AS MATERIALIZED (
    SELECT p.n, p.workspace_id, p.mailbox_id, p.job_id, NULLIF(p.pool_id, 0) AS pool_id, p.epoch,
        to_timestamp(p.slot_ms / 1000.0) AS slot_at,
        to_timestamp(p.not_after_ms / 1000.0) AS not_after, p.draw
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
    WHERE j.state = 'queued' AND j.due_at <= p.slot_at
        AND (NOT j.sticky OR j.mailbox_id = p.mailbox_id)
    ORDER BY j.workspace_id, j.job_id
    FOR UPDATE OF j SKIP LOCKED
), held AS MATERIALIZED (
    SELECT b.*
    FROM scheduler.mailbox_budget AS b
    WHERE (b.workspace_id, b.mailbox_id) IN (SELECT job.workspace_id, job.mailbox_id FROM job)
    ORDER BY b.workspace_id, b.mailbox_id
    FOR NO KEY UPDATE OF b
), judged AS MATERIALIZED (
    SELECT j.*, s.scope AS suspended
    FROM job AS j
    JOIN held AS h USING (workspace_id, mailbox_id)
    -- Seen as of now, not locked: what slips through is refused by the claim.
    LEFT JOIN LATERAL (
        SELECT o.scope
        FROM (VALUES ('workspace', j.workspace_id), ('campaign', j.campaign_id),
            ('pool', j.serves), ('mailbox', j.mailbox_id), ('domain', h.domain_ref),
            ('enrollment', j.enrollment_id)) AS v(scope, ref)
        JOIN scheduler.suspension AS o
            ON (o.workspace_id, o.scope, o.ref) = (j.workspace_id, v.scope, v.ref)
        WHERE o.closed_at IS NULL AND (o.until IS NULL OR o.until > clock_timestamp())
        LIMIT 1
    ) AS s ON true
), took AS (
    UPDATE scheduler.mailbox_budget AS b
    SET next_at = j.slot_at + interval '1 ms' * (
            b.cadence_ms + b.jitter_min_ms
            + floor((b.jitter_max_ms - b.jitter_min_ms) * j.draw)::bigint),
        day = (j.slot_at AT TIME ZONE b.tz)::date,
        day_used = CASE WHEN b.day = (j.slot_at AT TIME ZONE b.tz)::date
            THEN b.day_used ELSE 0 END + 1,
        hour = date_trunc('hour', j.slot_at),
        hour_used = CASE WHEN b.hour = date_trunc('hour', j.slot_at)
            THEN b.hour_used ELSE 0 END + 1,
        outstanding = b.outstanding + 1
    FROM judged AS j
    WHERE (b.workspace_id, b.mailbox_id) = (j.workspace_id, j.mailbox_id)
        AND j.suspended IS NULL AND j.serves IS NOT NULL
        AND b.epoch = j.epoch AND b.is_active
        AND j.not_after > clock_timestamp()
        AND j.slot_at <= clock_timestamp() + interval '5 s'
        AND b.outstanding < b.max_outstanding
        AND j.slot_at >= b.next_at
        AND j.slot_at >= b.open_from AND j.slot_at < b.open_until
        -- A day before the bucket's is over, whatever a zone change makes of it.
        AND (j.slot_at AT TIME ZONE b.tz)::date >= b.day
        AND (b.day_cap IS NULL OR b.day_cap > CASE
            WHEN b.day = (j.slot_at AT TIME ZONE b.tz)::date THEN b.day_used ELSE 0 END)
        AND (b.hour_cap IS NULL OR b.hour_cap > CASE
            WHEN b.hour = date_trunc('hour', j.slot_at) THEN b.hour_used ELSE 0 END)
    RETURNING j.n, b.workspace_id, b.mailbox_id, j.job_id, j.serves, j.slot_at, b.day, b.hour,
        least(j.not_after, j.slot_at + interval '1 ms' * b.grace_ms, b.open_until) AS not_after
), leased AS (
    UPDATE scheduler.send_job AS j
    SET state = 'reserved', mailbox_id = t.mailbox_id, pool_id = t.serves, slot_at = t.slot_at,
        not_after = t.not_after, reason = NULL, updated_at = clock_timestamp()
    FROM took AS t
    WHERE (j.workspace_id, j.job_id) = (t.workspace_id, t.job_id)
    RETURNING j.workspace_id, j.job_id, j.mailbox_id, j.enrollment_id, j.campaign_id, j.step,
        j.kind, j.fence, j.slot_at, j.not_after, j.traceparent, t.day, t.hour, t.n
), slots AS (
    INSERT INTO scheduler.slot (
        workspace_id, job_id, fence, mailbox_id, slot_at, not_after, day, hour)
    SELECT workspace_id, job_id, fence, mailbox_id, slot_at, not_after, day, hour FROM leased
), told AS (
    INSERT INTO scheduler.outbox (workspace_id, topic, key, type, subject, traceparent, body)
    SELECT l.workspace_id, 'send-scheduled', scheduler.public_id('mbx', l.mailbox_id),
        'paceline.send-scheduled.v1', scheduler.public_id('job', l.job_id), l.traceparent,
        convert_to(jsonb_strip_nulls(jsonb_build_object(
            'workspace_id', scheduler.public_id('ws', l.workspace_id),
            'job_id', scheduler.public_id('job', l.job_id),
            'mailbox_id', scheduler.public_id('mbx', l.mailbox_id),
            'enrollment_id', scheduler.public_id('enr', l.enrollment_id),
            'campaign_id', scheduler.public_id('cmp', l.campaign_id),
            'step', l.step, 'kind', l.kind, 'fence', l.fence,
            'slot_at', scheduler.instant(l.slot_at),
            'not_after', scheduler.instant(l.not_after)))::text, 'UTF8')
    FROM leased AS l
    ORDER BY l.n
)
SELECT p.n, p.workspace_id, p.mailbox_id, p.job_id,
    CASE
        WHEN l.job_id IS NOT NULL THEN NULL
        WHEN j.job_id IS NULL THEN 'job'
        WHEN d.n IS NULL THEN 'inactive'
        WHEN d.suspended IS NOT NULL THEN 'suspended:' || d.suspended
        WHEN h.epoch <> p.epoch THEN 'epoch'
        WHEN NOT h.is_active OR j.serves IS NULL THEN 'inactive'
        WHEN p.not_after <= clock_timestamp()
            OR p.slot_at > clock_timestamp() + interval '5 s' THEN 'clock'
        WHEN h.outstanding >= h.max_outstanding THEN 'outstanding'
        WHEN p.slot_at < h.next_at THEN 'cadence'
        WHEN p.slot_at < h.open_from OR p.slot_at >= h.open_until THEN 'window'
        WHEN h.hour = date_trunc('hour', p.slot_at) AND h.hour_used >= h.hour_cap
            THEN 'hour_cap'
        ELSE 'day_cap'
    END AS reason
FROM proposal AS p
LEFT JOIN job AS j USING (n)
LEFT JOIN judged AS d USING (n)
LEFT JOIN held AS h
    ON (h.workspace_id, h.mailbox_id) = (p.workspace_id, p.mailbox_id)
LEFT JOIN leased AS l USING (n)
ORDER BY p.n
