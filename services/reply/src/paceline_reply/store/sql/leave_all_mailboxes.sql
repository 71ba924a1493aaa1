-- Purpose: let others read every mailbox that is this instance's (as the worker role).
UPDATE reply.cursor SET reader = NULL, reader_until = NULL
WHERE reader = CAST(:instance AS uuid)
