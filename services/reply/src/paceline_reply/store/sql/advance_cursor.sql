-- Purpose: a message's effect is in this transaction, so reading goes on behind it.
-- Another UIDVALIDITY than the message's, or a place further on, is left alone.
UPDATE reply.cursor SET last_uid = :uid
WHERE workspace_id = :workspace AND mailbox_id = :mailbox
  AND uid_validity = :uid_validity AND last_uid < :uid
