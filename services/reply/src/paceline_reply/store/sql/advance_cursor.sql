-- Purpose: what was read up to a place has its effect, so reading goes on behind it. `read_at` is
-- when a look began that saw everything up to there; null leaves the last one.
UPDATE reply.cursor SET place = CAST(:place AS jsonb), read_at = coalesce(CAST(:read_at AS timestamptz), read_at)
WHERE workspace_id = :workspace AND mailbox_id = :mailbox
