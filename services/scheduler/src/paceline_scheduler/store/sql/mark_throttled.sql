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
), suspect AS MATERIALIZED (
    -- Few, mostly: only what may be out for any campaign is looked at closer.
    SELECT b.workspace_id, b.mailbox_id, b.types, b.health, b.health_floor, b.policy,
        b.throttled_until, h.cause
    FROM scheduler.mailbox_budget AS b
    LEFT JOIN (
        SELECT h.workspace_id, h.mailbox_id, min(h.cause) AS cause FROM held AS h GROUP BY 1, 2
    ) AS h USING (workspace_id, mailbox_id)
    LEFT JOIN (
        SELECT p.workspace_id, max(p.min_health) AS highest FROM scheduler.campaign_policy AS p
        GROUP BY 1
    ) AS f USING (workspace_id)
    WHERE b.is_active AND (h.cause IS NOT NULL OR b.health_floor AND b.health < f.highest
        OR b.types <> 7 OR b.throttled_until > statement_timestamp())
), routed AS MATERIALIZED (
    SELECT DISTINCT p.workspace_id, p.campaign_id, p.type, p.min_health,
        CAST(l.pool AS bigint) AS pool_id
    FROM scheduler.campaign_policy AS p
    JOIN gateway.v_campaign AS c USING (workspace_id, campaign_id)
    CROSS JOIN LATERAL jsonb_array_elements(c.tiers) AS t
    CROSS JOIN LATERAL jsonb_array_elements_text(t -> 'pools') AS l(pool)
    WHERE c.status = 'running' AND EXISTS (SELECT FROM suspect)
), judged AS (
    SELECT DISTINCT r.workspace_id, r.campaign_id, b.mailbox_id,
        CASE
            WHEN b.cause IS NOT NULL THEN b.cause
            WHEN b.health_floor AND b.health < r.min_health THEN 'health_below_floor'
            -- Not by the owner's own restriction: by its stage.
            WHEN b.types & r.type = 0 AND (b.policy -> 'campaign_types' IS NULL
                OR b.policy -> 'campaign_types' ? (CASE r.type WHEN 1 THEN 'cold'
                    WHEN 2 THEN 'nurture' ELSE 'transactional' END)) THEN 'stage_below'
            WHEN b.throttled_until > statement_timestamp() THEN 'throttled_cap'
        END AS cause
    FROM suspect AS b
    JOIN gateway.v_pool_member AS m USING (workspace_id, mailbox_id)
    JOIN routed AS r USING (workspace_id, pool_id)
), counted AS (
    SELECT j.workspace_id, j.campaign_id, count(j.cause) AS out,
        mode() WITHIN GROUP (ORDER BY j.cause) AS cause
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
    SELECT p.workspace_id, p.campaign_id, t.cause, t.out
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
        jsonb_build_object('cause', c.cause, 'mailboxes_out', c.out::text))
    FROM changed AS c
)
SELECT c.workspace_id, c.campaign_id, c.cause, c.out
FROM changed AS c
JOIN audited AS a USING (workspace_id, campaign_id)
ORDER BY 1, 2
