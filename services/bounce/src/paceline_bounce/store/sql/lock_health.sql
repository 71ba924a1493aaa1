-- Purpose: lock the health of mailboxes, in the order of their ids. In: parallel arrays.
SELECT h.workspace_id, h.mailbox_id, h.version, h.score, h.stage, h.fell_at, h.attested, h.delivered,
       h.cooldown_since, h.cooldown_until, h.cooldown_level, h.recent_sends, h.recent_hard,
       h.newest_hour, h.hour_sends, h.hour_hard
FROM bounce.mailbox_health AS h
JOIN unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]))
     AS e(workspace_id, mailbox_id) USING (workspace_id, mailbox_id)
ORDER BY h.workspace_id, h.mailbox_id
FOR NO KEY UPDATE OF h
