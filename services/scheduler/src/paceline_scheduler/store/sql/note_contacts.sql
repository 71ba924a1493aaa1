-- Purpose: note when leads were written to last, and by which campaign. Their enrollments are locked.
UPDATE scheduler.lead AS l
SET contacted_at = h.sent_at, contacted_campaign_id = h.campaign_id
FROM (
    SELECT l.workspace_id, l.lead_id, u.sent_at, u.campaign_id
    FROM (
        SELECT DISTINCT ON (e.workspace_id, e.lead_id) e.workspace_id, e.lead_id, e.campaign_id,
            u.sent_at
        FROM unnest(
            CAST(:workspaces AS bigint[]), CAST(:enrollments AS bigint[]),
            CAST(:sent_ats AS timestamptz[])
        ) AS u(workspace_id, enrollment_id, sent_at)
        CROSS JOIN LATERAL (
            SELECT e.workspace_id, e.lead_id, e.campaign_id FROM scheduler.enrollment AS e
            WHERE (e.workspace_id, e.enrollment_id) = (u.workspace_id, u.enrollment_id) OFFSET 0
        ) AS e
        ORDER BY e.workspace_id, e.lead_id, u.sent_at DESC
    ) AS u
    JOIN scheduler.lead AS l USING (workspace_id, lead_id)
    WHERE l.contacted_at IS NULL OR l.contacted_at < u.sent_at
    ORDER BY l.workspace_id, l.lead_id
    FOR NO KEY UPDATE OF l
) AS h
WHERE (l.workspace_id, l.lead_id) = (h.workspace_id, h.lead_id)
    AND (l.contacted_at IS NULL OR l.contacted_at < h.sent_at)
