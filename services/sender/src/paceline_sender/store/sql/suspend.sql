-- Purpose: close a gate for its own reason; idempotent while open. Out: the suspension.
SELECT scheduler.suspend(
    CAST(:workspace AS bigint), 'mailbox', CAST(:mailbox AS bigint), CAST(:reason AS text),
    CAST(:until AS timestamptz), 'sender', CAST(:detail AS text)
)
