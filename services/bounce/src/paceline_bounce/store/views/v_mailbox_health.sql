-- The health of mailboxes that sent something; what is not measured is null. The rates are plain
-- shares of the sends of 7 days (UTC, today included), null without any. `current_stage`
-- counts attestation in. Readers: gateway, scheduler.
CREATE OR REPLACE VIEW bounce.v_mailbox_health WITH (security_barrier) AS
SELECT h.workspace_id, h.mailbox_id, h.score::integer AS overall_score,
       NULL::integer AS reputation_score, NULL::integer AS daily_send_limit,
       0 AS warmup_progress, h.stage::integer AS current_stage,
       d.hard::double precision / nullif(greatest(d.sends, d.hard), 0) AS bounce_rate_7d,
       d.complaint::double precision / nullif(greatest(d.sends, d.complaint), 0)
           AS complaint_rate_7d,
       h.updated_at, h.version
FROM bounce.mailbox_health AS h
CROSS JOIN LATERAL (
    SELECT coalesce(sum(d.sent + d.refused), 0) AS sends, coalesce(sum(d.hard), 0) AS hard,
           coalesce(sum(d.complaint), 0) AS complaint
    FROM bounce.mailbox_day AS d
    WHERE (d.workspace_id, d.mailbox_id) = (h.workspace_id, h.mailbox_id)
      AND d.day > (now() AT TIME ZONE 'UTC')::date - 7
) AS d;
