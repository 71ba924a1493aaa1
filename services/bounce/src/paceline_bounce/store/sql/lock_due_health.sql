-- Purpose: lock the health that changes by time alone, of any workspace (worker role); what another
-- transaction holds is being computed there.
SELECT workspace_id, mailbox_id, version, score, stage, fell_at, delivered, cooldown_since,
       cooldown_until, cooldown_level, recent_sends, recent_hard, newest_hour, hour_sends, hour_hard
FROM bounce.mailbox_health
WHERE recompute_at <= :now
ORDER BY recompute_at
LIMIT :most
FOR NO KEY UPDATE SKIP LOCKED
