-- Purpose: what came back to a campaign's mailboxes: bounces that count and human replies.
-- In: campaign.
SELECT a.mailbox_id, sum(a.bounced)::bigint AS bounced, sum(a.replied)::bigint AS replied
FROM (
    SELECT b.mailbox_id, 1 AS bounced, 0 AS replied
    FROM bounce.v_bounce AS b
    JOIN scheduler.v_enrollment AS e USING (workspace_id, enrollment_id)
    WHERE e.campaign_id = :campaign
    UNION ALL
    SELECT r.mailbox_id, 0, 1
    FROM reply.v_reply AS r
    JOIN scheduler.v_enrollment AS e USING (workspace_id, enrollment_id)
    WHERE e.campaign_id = :campaign
) AS a
GROUP BY a.mailbox_id
