-- Purpose: the mailboxes of a pool (:pool) or of all tiers of a campaign (:campaign), whether every
-- pool of it that they are in is held, what the campaign asks of them (NULL for a pool). One row
-- with a NULL mailbox for a thing that exists and has none; no row for one that does not.
WITH pool AS MATERIALIZED (
    SELECT p.pool_id, NULL::smallint AS type, NULL::smallint AS min_health
    FROM gateway.v_pool AS p
    WHERE (p.workspace_id, p.pool_id) = (:workspace, CAST(:pool AS bigint))
    UNION
    SELECT CAST(l.pool AS bigint), c.type, c.min_health
    FROM (
        SELECT c.tiers, p.type, p.min_health
        FROM gateway.v_campaign AS c
        LEFT JOIN scheduler.campaign_policy AS p USING (workspace_id, campaign_id)
        WHERE (c.workspace_id, c.campaign_id) = (:workspace, CAST(:campaign AS bigint))
    ) AS c
    LEFT JOIN LATERAL (
        SELECT p.pool
        FROM jsonb_array_elements(c.tiers) AS t, jsonb_array_elements_text(t -> 'pools') AS p(pool)
    ) AS l ON true
)
SELECT m.mailbox_id, p.type, p.min_health, bool_and(EXISTS (
    SELECT FROM scheduler.suspension AS s
    WHERE (s.workspace_id, s.scope, s.ref) = (:workspace, 'pool', p.pool_id)
        AND s.closed_at IS NULL AND (s.until IS NULL OR s.until > clock_timestamp()))) AS is_closed
FROM pool AS p
LEFT JOIN gateway.v_pool_member AS m
    ON (m.workspace_id, m.pool_id) = (:workspace, p.pool_id)
GROUP BY 1, 2, 3
ORDER BY 1
