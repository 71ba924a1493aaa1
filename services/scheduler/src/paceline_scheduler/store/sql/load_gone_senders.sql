-- Purpose: mailboxes that are gone, per campaign whose jobs wait for them: since when (inactive, or
-- held by suspensions of the mailbox or its domain that follow on each other without a gap), what
-- the campaign does about it, and whether a failed one's jobs may go elsewhere at all.
WITH held AS (
    -- Closed ones matter only to those that are held now: how long, without a gap.
    SELECT b.workspace_id, b.mailbox_id, b.policy, s.opened_at AS begins,
        coalesce(s.closed_at, CASE WHEN s.until <= statement_timestamp() THEN s.until END,
            'infinity') AS ends
    FROM scheduler.mailbox_budget AS b
    CROSS JOIN LATERAL (VALUES ('mailbox', b.mailbox_id), ('domain', b.domain_ref)) AS v(scope, ref)
    JOIN scheduler.suspension AS s
        ON (s.workspace_id, s.scope, s.ref) = (b.workspace_id, v.scope, v.ref)
    WHERE NOT b.is_active OR EXISTS (
        SELECT FROM scheduler.suspension AS o
        WHERE o.workspace_id = b.workspace_id AND o.closed_at IS NULL
            AND (o.scope, o.ref) IN (('mailbox', b.mailbox_id), ('domain', b.domain_ref)))
    UNION ALL
    SELECT b.workspace_id, b.mailbox_id, b.policy,
        coalesce(b.inactive_since, statement_timestamp()), 'infinity'
    FROM scheduler.mailbox_budget AS b
    WHERE NOT b.is_active
), chained AS (
    SELECT h.*, h.begins > max(h.ends) OVER (
            PARTITION BY h.workspace_id, h.mailbox_id ORDER BY h.begins, h.ends
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS is_after_gap
    FROM held AS h
), gone AS MATERIALIZED (
    SELECT c.workspace_id, c.mailbox_id,
        coalesce(max(c.begins) FILTER (WHERE c.is_after_gap), min(c.begins)) AS gone_since,
        bool_and(c.policy -> 'reroute' IS DISTINCT FROM 'false') AS reroute
    FROM chained AS c
    GROUP BY 1, 2
    HAVING max(c.ends) = 'infinity'
)
SELECT g.workspace_id, g.mailbox_id, p.campaign_id, g.gone_since, g.reroute, p.stickiness,
    p.reassign_after_s, statement_timestamp() AS db_now
FROM gone AS g
JOIN scheduler.campaign_policy AS p USING (workspace_id)
WHERE EXISTS (
    SELECT FROM scheduler.send_job AS j
    WHERE (j.workspace_id, j.mailbox_id, j.campaign_id)
            = (g.workspace_id, g.mailbox_id, p.campaign_id)
        AND j.state = 'queued' AND j.sticky)
ORDER BY g.workspace_id, g.mailbox_id, p.campaign_id
