-- Purpose: open a mailbox's gate again, for the one reason that reply closed it for.
SELECT scheduler.resume(CAST(:workspace AS bigint), 'mailbox', CAST(:mailbox AS bigint),
                        CAST(:reason AS text), 'reply')
