-- Purpose: the mailboxes of some pools (or :mailbox alone) by what each is to one campaign now:
-- how many, when the first of them opens (NULL: not by itself), the :most that open first. `open` and
-- `closed` serve sooner or later, as far as the compiled rows tell; the others are states that no
-- time, or only a suspension's end, changes.
WITH held AS MATERIALIZED (
    SELECT s.scope, s.ref,
        min(CASE
            WHEN s.scope = 'mailbox' AND s.reason IN (
                'cooldown', 'grant_revoked', 'app_refused', 'app_limited')
                THEN s.reason
            WHEN s.scope = 'mailbox' AND scheduler.is_node_failure(s.reason) THEN 'node_failed'
            ELSE s.scope || '_suspended' END) AS code,
        CASE WHEN bool_and(s.until IS NOT NULL) THEN max(s.until) END AS until
    FROM scheduler.suspension AS s
    WHERE s.workspace_id = :workspace AND s.scope IN ('mailbox', 'domain', 'pool')
        AND s.closed_at IS NULL AND (s.until IS NULL OR s.until > clock_timestamp())
    GROUP BY 1, 2
), member AS MATERIALIZED (
    SELECT m.mailbox_id, bool_and(h.ref IS NOT NULL) AS is_closed, min(h.until) AS until,
        bool_and(p.rotation = 'priority' AND m.rank > 0) AS is_backup
    FROM gateway.v_pool_member AS m
    JOIN gateway.v_pool AS p USING (workspace_id, pool_id)
    LEFT JOIN held AS h ON (h.scope, h.ref) = ('pool', m.pool_id)
    WHERE m.workspace_id = :workspace AND m.pool_id = ANY (CAST(:pools AS bigint[]))
        AND CAST(:mailbox AS bigint) IS NULL
    GROUP BY m.mailbox_id
    UNION ALL
    SELECT CAST(:mailbox AS bigint), false, NULL, false
    WHERE CAST(:mailbox AS bigint) IS NOT NULL
), judged AS (
    SELECT b.mailbox_id, m.is_backup, b.next_at,
        CASE WHEN isfinite(b.open_from) THEN b.open_from END AS open_from,
        CASE
            WHEN NOT b.is_active THEN 'mailbox_inactive'
            WHEN coalesce(x.code, y.code) IS NOT NULL THEN coalesce(x.code, y.code)
            WHEN m.is_closed THEN 'pool_suspended'
            WHEN b.types & CAST(:type AS integer) = 0 THEN CASE
                WHEN b.policy -> 'campaign_types' ? CAST(:type_name AS text)
                    OR coalesce(b.policy -> 'campaign_types', 'null') = 'null' THEN 'stage_below'
                ELSE 'type_restricted' END
            WHEN b.health_floor AND b.health < :min_health THEN 'health_below_floor'
            WHEN CAST(:host AS integer) > 0 AND b.host <> CAST(:host AS integer)
                THEN 'esp_mismatch'
            WHEN NOT isfinite(b.open_from) OR b.open_from > clock_timestamp() THEN 'closed'
            ELSE 'open'
        END AS state,
        CASE WHEN NOT (NOT b.is_active OR x.code IS NOT NULL AND x.until IS NULL
                OR y.code IS NOT NULL AND y.until IS NULL OR m.is_closed AND m.until IS NULL)
            THEN greatest(x.until, y.until, CASE WHEN m.is_closed THEN m.until END)
        END AS resumes_at
    FROM member AS m
    JOIN scheduler.mailbox_budget AS b
        ON (b.workspace_id, b.mailbox_id) = (:workspace, m.mailbox_id)
    LEFT JOIN held AS x ON (x.scope, x.ref) = ('mailbox', b.mailbox_id)
    LEFT JOIN held AS y ON (y.scope, y.ref) = ('domain', b.domain_ref)
), timed AS (
    SELECT j.mailbox_id, j.is_backup, j.state, j.state IN ('open', 'closed') AS serves,
        CASE j.state WHEN 'open' THEN greatest(clock_timestamp(), j.next_at)
            -- NULL where nobody has looked yet, or its rules leave no time.
            WHEN 'closed' THEN CASE WHEN j.open_from IS NOT NULL
                THEN greatest(j.open_from, j.next_at) END
            ELSE j.resumes_at END AS opens_at
    FROM judged AS j
)
SELECT t.state, t.serves, count(*) AS members, min(t.opens_at) AS opens_at,
    (array_agg(t.mailbox_id ORDER BY t.opens_at, t.mailbox_id))[1:CAST(:most AS integer)]
        AS mailboxes,
    (array_agg(t.opens_at ORDER BY t.opens_at, t.mailbox_id))[1:CAST(:most AS integer)] AS opens,
    (array_agg(t.is_backup ORDER BY t.opens_at, t.mailbox_id))[1:CAST(:most AS integer)] AS backups
FROM timed AS t
GROUP BY 1, 2
