-- Purpose: close a gate for its own reason; idempotent while open. Out: the suspension, or no row
--     when `credential_version` is given and the mailbox was connected anew meanwhile.
SELECT scheduler.suspend(
    CAST(:workspace AS bigint), 'mailbox', CAST(:mailbox AS bigint), CAST(:reason AS text),
    CAST(:until AS timestamptz), 'sender', CAST(:detail AS text)
)
WHERE CAST(:credential_version AS bigint) IS NULL OR EXISTS (
    SELECT FROM gateway.v_mailbox_send AS s
    WHERE s.workspace_id = CAST(:workspace AS bigint) AND s.mailbox_id = CAST(:mailbox AS bigint)
      AND s.credential_version = CAST(:credential_version AS bigint)
)
