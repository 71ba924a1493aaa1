-- Purpose: one enrollment with all that `explain` asks of its campaign, workspace and recipient.
SELECT e.enrollment_id, e.campaign_id, e.lead_id, e.job_id, e.state, e.reason, e.step,
    e.mailbox_id, e.contact_hold, e.enrolled_at, e.finished_at,
    coalesce(c.tiers, '[]'::jsonb) AS tiers, p.type, coalesce(p.min_health, 0) AS min_health,
    p.stickiness, p.reassign_after_s, coalesce(p.esp_match, 'off') AS esp_match,
    scheduler.known_zone(w.timezone) AS zone, coalesce(a.host, 0) AS host,
    r.tz AS recipient_tz, r.day_cap AS recipient_cap,
    CASE WHEN isfinite(r.day) THEN r.day END AS recipient_day, r.day_used AS recipient_used,
    c.status, coalesce(w.is_active, true) AS is_workspace_active, clock_timestamp() AS db_now
FROM scheduler.enrollment AS e
LEFT JOIN gateway.v_workspace AS w USING (workspace_id)
LEFT JOIN gateway.v_campaign AS c
    ON (c.workspace_id, c.campaign_id) = (e.workspace_id, e.campaign_id)
LEFT JOIN scheduler.campaign_policy AS p
    ON (p.workspace_id, p.campaign_id) = (e.workspace_id, e.campaign_id)
LEFT JOIN scheduler.address AS a
    ON (a.workspace_id, a.address_id) = (e.workspace_id, e.domain_id)
LEFT JOIN scheduler.recipient_budget AS r
    ON (r.workspace_id, r.domain_id) = (e.workspace_id, e.domain_id)
WHERE (e.workspace_id, e.enrollment_id) = (:workspace, :enrollment)
