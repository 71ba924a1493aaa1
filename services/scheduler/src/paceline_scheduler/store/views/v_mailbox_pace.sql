-- Purpose: how far each mailbox is in its day. day_used counts today (mailbox-local) only.
CREATE OR REPLACE VIEW scheduler.v_mailbox_pace WITH (security_barrier) AS
SELECT
    workspace_id, mailbox_id, CASE WHEN isfinite(next_at) THEN next_at END AS next_at,
    t.today AS day, CASE WHEN day = t.today THEN day_used ELSE 0 END AS day_used, day_cap,
    outstanding
FROM scheduler.mailbox_budget
CROSS JOIN LATERAL (SELECT (clock_timestamp() AT TIME ZONE tz)::date AS today) AS t;
