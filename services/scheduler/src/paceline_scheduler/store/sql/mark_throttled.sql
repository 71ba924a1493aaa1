-- Purpose: mark the running campaigns with waiting jobs of whose mailboxes at least one is out (health,
-- stage, cooldown, failure, throttle), with the commonest cause; unmark those of which that is true
-- no more. Both are audited. Of the workspaces that the transaction names.
-- Out: the campaigns whose cause changed (NULL: none any more), with the numbers.
WITH held AS (
    SELECT s.workspace_id, s.ref AS mailbox_id,
        CASE s.reason WHEN 'cooldown' THEN 'cooldown' WHEN 'grant_revoked' THEN 'grant_revoked'
            ELSE 'node_failed' END AS cause
    FROM scheduler.suspension AS s
    WHERE s.scope = 'mailbox' AND s.closed_at IS NULL
        AND (s.until IS NULL OR s.until > statement_timestamp())
        AND (s.reason = 'cooldown' OR scheduler.is_node_failure(s.reason))
), member AS MATERIALIZED (
    SELECT DISTINCT p.workspace_id, p.campaign_id, p.type, p.min_health, m.mailbox_id
    FROM scheduler.campaign_policy AS p
    JOIN gateway.v_campaign AS c USING (workspace_id, campaign_id)
    CROSS JOIN LATERAL jsonb_array_elements(c.tiers) AS t
    CROSS JOIN LATERAL jsonb_array_elements_text(t -> 'pools') AS l(pool)
    JOIN gateway.v_pool_member AS m
        ON (m.workspace_id, m.pool_id) = (p.workspace_id, CAST(l.pool AS bigint))
    WHERE c.status = 'running'
), judged AS (
    SELECT m.workspace_id, m.campaign_id, m.mailbox_id,
        CASE
            WHEN h.cause IS NOT NULL THEN h.cause
            WHEN b.health_floor AND b.health < m.min_health THEN 'health_below_floor'
            -- Not by the owner's own restriction: by its stage.
            WHEN b.types & m.type = 0 AND (b.policy -> 'campaign_types' IS NULL
                OR b.policy -> 'campaign_types' ? (CASE m.type WHEN 1 THEN 'cold'
                    WHEN 2 THEN 'nurture' ELSE 'transactional' END)) THEN 'stage_below'
            WHEN b.throttled_until > statement_timestamp() THEN 'throttled_cap'
        END AS cause
    FROM member AS m
    JOIN scheduler.mailbox_budget AS b USING (workspace_id, mailbox_id)
    LEFT JOIN LATERAL (
        SELECT min(h.cause) AS cause FROM held AS h
        WHERE (h.workspace_id, h.mailbox_id) = (m.workspace_id, m.mailbox_id)
    ) AS h ON true
    WHERE b.is_active
), counted AS (
    SELECT j.workspace_id, j.campaign_id, count(*) AS members,
        count(j.cause) AS out, mode() WITHIN GROUP (ORDER BY j.cause) AS cause
    FROM judged AS j
    GROUP BY 1, 2
    HAVING count(j.cause) > 0
), throttled AS MATERIALIZED (
    SELECT c.* FROM counted AS c
    WHERE EXISTS (
        SELECT FROM scheduler.send_job AS j
        WHERE j.workspace_id = c.workspace_id AND j.campaign_id = c.campaign_id
            AND j.state = 'queued' AND j.due_at <= statement_timestamp())
), changed AS MATERIALIZED (
    SELECT p.workspace_id, p.campaign_id, t.cause, t.members, t.out
    FROM scheduler.campaign_policy AS p
    LEFT JOIN throttled AS t USING (workspace_id, campaign_id)
    WHERE p.throttle_cause IS DISTINCT FROM t.cause
    ORDER BY p.workspace_id, p.campaign_id
    FOR NO KEY UPDATE OF p
), marked AS (
    UPDATE scheduler.campaign_policy AS p
    SET throttle_cause = c.cause,
        throttled_since = CASE WHEN c.cause IS NOT NULL
            THEN coalesce(p.throttled_since, clock_timestamp()) END
    FROM changed AS c
    WHERE (p.workspace_id, p.campaign_id) = (c.workspace_id, c.campaign_id)
), audited AS MATERIALIZED (
    SELECT c.campaign_id, c.workspace_id, scheduler.emit_audit(c.workspace_id,
        CASE WHEN c.cause IS NULL THEN 'campaign.throttle_ended' ELSE 'campaign.throttled' END,
        'scheduler', scheduler.public_id('cmp', c.campaign_id),
        jsonb_build_object('cause', c.cause, 'mailboxes_out', c.out::text,
            'mailboxes', c.members::text))
    FROM changed AS c
)
SELECT c.workspace_id, c.campaign_id, c.cause, c.members, c.out
FROM changed AS c
JOIN audited AS a USING (workspace_id, campaign_id)
ORDER BY 1, 2
