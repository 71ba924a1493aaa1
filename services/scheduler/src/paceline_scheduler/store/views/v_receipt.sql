-- Purpose: what became of each lead handed in.
CREATE OR REPLACE VIEW scheduler.v_receipt WITH (security_barrier) AS
SELECT workspace_id, event_id, import_id, row_number, outcome, reason, enrollment_id, at
FROM scheduler.receipt;
