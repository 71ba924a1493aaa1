-- Purpose: as explain_mailboxes, as of :at, from the decisions in force and the suspensions open
-- then; holds are told by name. Mailboxes of which nothing is noted are left out; pools have the
-- members they have now. Of more than :sample every n-th is looked at, and the counts are scaled.
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
        AND s.opened_at <= :at AND (s.closed_at IS NULL OR s.closed_at > :at)
        AND (s.until IS NULL OR s.until > :at)
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
), looked AS MATERIALIZED (
    SELECT m.*
    FROM (
        SELECT m.*, row_number() OVER (ORDER BY m.mailbox_id) - 1 AS n, count(*) OVER () AS total
        FROM member AS m
    ) AS m
    WHERE m.n % greatest(1, ceil(m.total::numeric / :sample)::bigint) = 0
), judged AS (
    SELECT b.mailbox_id, m.is_backup, greatest(d.until, d.opens) AS hold_until,
        CASE
            WHEN d.reason = 'mailbox_inactive' THEN d.reason
            WHEN coalesce(x.code, y.code) IS NOT NULL THEN coalesce(x.code, y.code)
            WHEN m.is_closed THEN 'pool_suspended'
            WHEN CAST(d.inputs ->> 'types' AS integer) & CAST(:type AS integer) = 0 THEN CASE
                WHEN d.inputs -> 'policy' -> 'campaign_types' ? CAST(:type_name AS text)
                    OR coalesce(d.inputs -> 'policy' -> 'campaign_types', 'null') = 'null'
                    THEN 'stage_below'
                ELSE 'type_restricted' END
            WHEN CAST(d.inputs ->> 'health_floor' AS boolean)
                AND CAST(d.inputs ->> 'health' AS integer) < :min_health THEN 'health_below_floor'
            WHEN CAST(:host AS integer) > 0 AND b.host <> CAST(:host AS integer)
                THEN 'esp_mismatch'
            WHEN d.reason = ANY (CAST(:holds AS text[])) AND (d.until IS NULL OR d.until > :at)
                THEN d.reason
            -- The hold is over, and the hours are closed yet.
            WHEN d.reason = ANY (CAST(:holds AS text[])) AND d.opens > :at THEN 'outside_window'
            ELSE 'open'
        END AS state,
        CASE WHEN NOT (d.reason = 'mailbox_inactive' OR x.code IS NOT NULL AND x.until IS NULL
                OR y.code IS NOT NULL AND y.until IS NULL OR m.is_closed AND m.until IS NULL)
            THEN greatest(x.until, y.until, CASE WHEN m.is_closed THEN m.until END)
        END AS resumes_at
    FROM looked AS m
    JOIN scheduler.mailbox_budget AS b
        ON (b.workspace_id, b.mailbox_id) = (:workspace, m.mailbox_id)
    CROSS JOIN LATERAL (
        SELECT d.reason, d.until, d.inputs, CAST(d.inputs ->> 'opens' AS timestamptz) AS opens
        FROM scheduler.decision AS d
        WHERE (d.workspace_id, d.scope, d.ref) = (:workspace, 'mailbox', m.mailbox_id)
            AND d.first_at <= :at
        ORDER BY d.first_at DESC, d.decision_id DESC
        LIMIT 1
    ) AS d
    LEFT JOIN held AS x ON (x.scope, x.ref) = ('mailbox', b.mailbox_id)
    LEFT JOIN held AS y ON (y.scope, y.ref) = ('domain', b.domain_ref)
), timed AS (
    SELECT j.mailbox_id, j.is_backup, j.state,
        j.state = 'open' OR j.state = ANY (CAST(:holds AS text[])) AND j.hold_until IS NOT NULL
            AS serves,
        CASE WHEN j.state = 'open' THEN CAST(:at AS timestamptz)
            WHEN j.state = ANY (CAST(:holds AS text[])) THEN j.hold_until
            ELSE j.resumes_at END AS opens_at
    FROM judged AS j
)
SELECT t.state, t.serves,
    ceil(count(*) * (SELECT count(*) FROM member)::numeric / (SELECT count(*) FROM looked))::bigint
        AS members, min(t.opens_at) AS opens_at,
    (array_agg(t.mailbox_id ORDER BY t.opens_at, t.mailbox_id))[1:CAST(:most AS integer)]
        AS mailboxes,
    (array_agg(t.opens_at ORDER BY t.opens_at, t.mailbox_id))[1:CAST(:most AS integer)] AS opens,
    (array_agg(t.is_backup ORDER BY t.opens_at, t.mailbox_id))[1:CAST(:most AS integer)] AS backups
FROM timed AS t
GROUP BY 1, 2
