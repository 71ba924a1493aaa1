-- Purpose: some mailboxes as of :at: what the decision in force noted of their settings, and the
-- slots of the 26 hours before that counted then: by hour and local day, and the last instant.
SELECT m.mailbox_id, d.reason, d.until, d.inputs, s.last_at, s.day, s.day_used,
    s.hours, s.used
FROM unnest(CAST(:mailboxes AS bigint[])) AS m(mailbox_id)
CROSS JOIN LATERAL (
    SELECT d.reason, d.until, d.inputs
    FROM scheduler.decision AS d
    WHERE (d.workspace_id, d.scope, d.ref) = (:workspace, 'mailbox', m.mailbox_id)
        AND d.first_at <= :at
    ORDER BY d.first_at DESC, d.decision_id DESC
    LIMIT 1
) AS d
CROSS JOIN LATERAL (
    SELECT max(h.last_at) AS last_at, max(h.day) AS day,
        (array_agg(h.day_used ORDER BY h.day DESC))[1] AS day_used,
        array_agg(h.hour) AS hours, array_agg(h.used) AS used
    FROM (
        SELECT s.hour, s.day, count(*)::integer AS used, max(s.slot_at) AS last_at,
            (sum(count(*)) OVER (PARTITION BY s.day))::integer AS day_used
        FROM scheduler.slot AS s
        WHERE (s.workspace_id, s.mailbox_id) = (:workspace, m.mailbox_id)
            AND s.slot_at > CAST(:at AS timestamptz) - interval '26 hours'
            AND s.slot_at < CAST(:at AS timestamptz) + interval '10 s'
            AND s.reserved_at <= :at AND (s.returned_at IS NULL OR s.returned_at > :at)
        GROUP BY s.hour, s.day
    ) AS h
) AS s
