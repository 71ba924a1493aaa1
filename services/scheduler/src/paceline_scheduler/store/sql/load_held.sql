-- Purpose: enrollments that wait for another campaign though none has their lead any more, or it
-- does not matter any more; whose turn it is among several of a lead is decided under the lock of its
-- address. In: the leads to look at, or NULL for all.
SELECT e.workspace_id, e.enrollment_id
FROM scheduler.enrollment AS e
JOIN gateway.v_workspace AS w USING (workspace_id)
LEFT JOIN scheduler.campaign_policy AS c
    ON (c.workspace_id, c.campaign_id) = (e.workspace_id, e.campaign_id)
WHERE e.contact_hold AND e.state = 'active'
    AND (CAST(:leads AS bigint[]) IS NULL OR e.lead_id = ANY (CAST(:leads AS bigint[])))
    AND (c.allow_parallel OR CAST(w.contact ->> 'parallel_campaigns' AS boolean)
        OR NOT EXISTS (
            SELECT FROM scheduler.enrollment AS o
            LEFT JOIN scheduler.campaign_policy AS p
                ON (p.workspace_id, p.campaign_id) = (o.workspace_id, o.campaign_id)
            WHERE (o.workspace_id, o.lead_id) = (e.workspace_id, e.lead_id)
                AND o.enrollment_id <> e.enrollment_id AND o.state = 'active'
                AND NOT coalesce(p.allow_parallel, false) AND NOT o.contact_hold))
ORDER BY e.workspace_id, e.enrollment_id
LIMIT :most
