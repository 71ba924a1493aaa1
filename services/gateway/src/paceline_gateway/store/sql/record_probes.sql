-- Purpose: keep the newest test of each mailbox's two legs; idempotent by its time.
-- In: parallel arrays workspaces, mailboxes, legs ('send' | 'read'), oks, codes, probed.
WITH newest AS (
    SELECT DISTINCT ON (workspace_id, mailbox_id, leg)
        workspace_id, mailbox_id, leg, ok, code, probed_at
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]), CAST(:legs AS text[]),
        CAST(:oks AS boolean[]), CAST(:codes AS text[]), CAST(:probed AS timestamptz[])
    ) AS e (workspace_id, mailbox_id, leg, ok, code, probed_at)
    ORDER BY workspace_id, mailbox_id, leg, probed_at DESC
), legs AS (
    SELECT
        m.workspace_id, m.mailbox_id,
        s.ok AS send_ok, s.code AS send_code, s.probed_at AS send_at,
        r.ok AS read_ok, r.code AS read_code, r.probed_at AS read_at
    FROM gateway.mailbox AS m
    LEFT JOIN newest AS s
        ON (s.workspace_id, s.mailbox_id, s.leg) = (m.workspace_id, m.mailbox_id, 'send')
        AND s.probed_at > coalesce(m.send_probed_at, '-infinity')
    LEFT JOIN newest AS r
        ON (r.workspace_id, r.mailbox_id, r.leg) = (m.workspace_id, m.mailbox_id, 'read')
        AND r.probed_at > coalesce(m.read_probed_at, '-infinity')
    WHERE (m.workspace_id, m.mailbox_id) IN (SELECT workspace_id, mailbox_id FROM newest)
    ORDER BY m.workspace_id, m.mailbox_id
    FOR UPDATE OF m
)
UPDATE gateway.mailbox AS m SET
    send_probe_ok = CASE WHEN l.send_at IS NULL THEN m.send_probe_ok ELSE l.send_ok END,
    send_probe_code = CASE WHEN l.send_at IS NULL THEN m.send_probe_code ELSE l.send_code END,
    send_probed_at = coalesce(l.send_at, m.send_probed_at),
    read_probe_ok = CASE WHEN l.read_at IS NULL THEN m.read_probe_ok ELSE l.read_ok END,
    read_probe_code = CASE WHEN l.read_at IS NULL THEN m.read_probe_code ELSE l.read_code END,
    read_probed_at = coalesce(l.read_at, m.read_probed_at)
FROM legs AS l
WHERE (m.workspace_id, m.mailbox_id) = (l.workspace_id, l.mailbox_id)
