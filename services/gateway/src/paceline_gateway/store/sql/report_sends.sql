-- Purpose: the tries of a campaign's messages per step and mailbox.
-- In: campaign.
SELECT
    step, mailbox_id,
    count(DISTINCT job_id) FILTER (WHERE outcome = 'accepted') AS sent,
    count(*) FILTER (WHERE outcome = 'deferred') AS deferred,
    count(DISTINCT job_id) FILTER (WHERE outcome = 'rejected') AS rejected,
    count(DISTINCT job_id) FILTER (WHERE outcome = 'failed') AS failed,
    count(DISTINCT job_id) FILTER (WHERE outcome = 'in_doubt') AS in_doubt,
    max(finished_at) FILTER (WHERE outcome = 'accepted') AS last_sent_at
FROM sender.v_send_log
WHERE campaign_id = :campaign
GROUP BY step, mailbox_id
ORDER BY step, mailbox_id
