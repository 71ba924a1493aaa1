-- Purpose: what became of a campaign's messages per step and variant (null: the step's own content).
-- In: campaign. Notes: a reply counts for the message that was last before it; opens and clicks
--     count messages, not times.
WITH sent AS (
    SELECT DISTINCT ON (l.workspace_id, l.job_id)
        l.workspace_id, l.job_id, l.enrollment_id, l.step, l.variant, l.finished_at AS sent_at
    FROM sender.v_send_log AS l
    WHERE l.campaign_id = :campaign AND l.outcome = 'accepted'
    ORDER BY l.workspace_id, l.job_id, l.finished_at
),
bounced AS (
    SELECT DISTINCT b.workspace_id, b.job_id
    FROM bounce.v_bounce AS b
    JOIN sent AS s USING (workspace_id, job_id)
),
replied AS (
    SELECT DISTINCT r.workspace_id, last.job_id
    FROM reply.v_reply AS r
    JOIN LATERAL (
        SELECT s.job_id
        FROM sent AS s
        WHERE s.workspace_id = r.workspace_id AND s.enrollment_id = r.enrollment_id
          AND s.sent_at <= r.received_at + interval '1 minute'
        ORDER BY s.sent_at DESC
        LIMIT 1
    ) AS last ON true
)
SELECT
    s.step, s.variant, count(*) AS sent, count(b.job_id) AS bounced, count(r.job_id) AS replied,
    count(*) FILTER (WHERE EXISTS (
        SELECT FROM gateway.v_tracked AS t
        WHERE t.workspace_id = s.workspace_id AND t.job_id = s.job_id AND t.kind = 'open'
    )) AS opened,
    count(*) FILTER (WHERE EXISTS (
        SELECT FROM gateway.v_tracked AS t
        WHERE t.workspace_id = s.workspace_id AND t.job_id = s.job_id AND t.kind = 'click'
    )) AS clicked
FROM sent AS s
LEFT JOIN bounced AS b USING (workspace_id, job_id)
LEFT JOIN replied AS r USING (workspace_id, job_id)
GROUP BY s.step, s.variant
ORDER BY s.step, s.variant NULLS FIRST
