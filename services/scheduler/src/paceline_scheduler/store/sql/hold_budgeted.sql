-- Purpose: drop the stretches of mailboxes whose sending domain gets a budget, or loses or changes
-- it, so that nothing is leased past a row that is not seen yet.
UPDATE scheduler.mailbox_budget AS b
SET revision = b.revision + 1, open_from = 'infinity', open_until = 'infinity'
FROM (
    SELECT b.workspace_id, b.mailbox_id
    FROM scheduler.mailbox_budget AS b
    JOIN (
        SELECT coalesce(v.workspace_id, d.workspace_id) AS workspace_id,
            coalesce(hashtextextended(v.domain, 0), d.domain_ref) AS domain_ref
        FROM gateway.v_domain_budget AS v
        JOIN gateway.v_workspace AS w USING (workspace_id)
        FULL JOIN scheduler.domain_budget AS d
            ON (d.workspace_id, d.domain) = (v.workspace_id, v.domain)
        WHERE (v.daily_max, scheduler.known_zone(w.timezone))
            IS DISTINCT FROM (d.day_cap, CASE WHEN v.domain IS NOT NULL THEN d.tz END)
    ) AS c USING (workspace_id, domain_ref)
    ORDER BY b.workspace_id, b.mailbox_id
    FOR NO KEY UPDATE OF b
) AS h
WHERE (b.workspace_id, b.mailbox_id) = (h.workspace_id, h.mailbox_id)
