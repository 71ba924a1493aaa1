-- Purpose: close the gate of one scope for one reason, until an instant or until opened again.
SELECT scheduler.suspend(CAST(:workspace AS bigint), CAST(:scope AS text), CAST(:ref AS bigint),
                         CAST(:reason AS text), CAST(:until AS timestamptz), 'bounce',
                         CAST(:detail AS text))
