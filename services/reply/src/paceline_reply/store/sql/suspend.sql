-- Purpose: close the gate of one scope for one reason, until it is opened again.
SELECT scheduler.suspend(CAST(:workspace AS bigint), CAST(:scope AS text), CAST(:ref AS bigint),
                         CAST(:reason AS text), NULL, 'reply', CAST(:detail AS text))
