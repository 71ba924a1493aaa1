-- Purpose: start reading under a new UIDVALIDITY, behind `last_uid`.
UPDATE reply.cursor SET uid_validity = :uid_validity, last_uid = :last_uid
WHERE workspace_id = :workspace AND mailbox_id = :mailbox
