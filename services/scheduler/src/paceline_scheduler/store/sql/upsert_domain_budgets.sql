-- Purpose: make the daily maxima of sending domains what the settings say, in the workspace's zone.
-- A new one has counted what its mailboxes sent today; one that is gone goes on counting. The
-- mailboxes' rows are locked.
WITH given AS MATERIALIZED (
    SELECT v.workspace_id, v.domain, hashtextextended(v.domain, 0) AS domain_ref, v.daily_max,
        z.tz, (clock_timestamp() AT TIME ZONE z.tz)::date AS today
    FROM gateway.v_domain_budget AS v
    JOIN gateway.v_workspace AS w USING (workspace_id)
    CROSS JOIN LATERAL (SELECT scheduler.known_zone(w.timezone) AS tz OFFSET 0) AS z
), gone AS (
    UPDATE scheduler.domain_budget AS d SET day_cap = NULL
    WHERE d.day_cap IS NOT NULL AND NOT EXISTS (
        SELECT FROM given AS g
        WHERE (g.workspace_id, g.domain_ref) = (d.workspace_id, d.domain_ref))
)
INSERT INTO scheduler.domain_budget AS d (
    workspace_id, domain_ref, domain, tz, day_cap, day, day_used)
SELECT g.workspace_id, g.domain_ref, g.domain, g.tz, g.daily_max, g.today, (
    SELECT count(*)
    FROM scheduler.mailbox_budget AS b
    JOIN scheduler.slot AS s USING (workspace_id, mailbox_id)
    WHERE (b.workspace_id, b.domain_ref) = (g.workspace_id, g.domain_ref)
        AND s.returned_at IS NULL
        AND s.slot_at >= g.today::timestamp AT TIME ZONE g.tz)
FROM given AS g
ORDER BY g.workspace_id, g.domain_ref
ON CONFLICT (workspace_id, domain_ref) DO UPDATE
SET day_cap = excluded.day_cap, tz = excluded.tz,
    -- Another zone means other days: counted anew.
    day = CASE WHEN d.tz = excluded.tz THEN d.day ELSE excluded.day END,
    day_used = CASE WHEN d.tz = excluded.tz THEN d.day_used ELSE excluded.day_used END
WHERE (d.day_cap, d.tz) IS DISTINCT FROM (excluded.day_cap, excluded.tz)
