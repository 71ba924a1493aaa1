-- Purpose: receipts of requests that were not enrolled.
INSERT INTO scheduler.receipt (
    workspace_id, source, event_id, import_id, row_number, outcome, reason)
SELECT *
FROM unnest(
    CAST(:workspaces AS bigint[]), CAST(:sources AS text[]), CAST(:event_ids AS text[]),
    CAST(:imports AS bigint[]), CAST(:rows AS integer[]), CAST(:outcomes AS text[]),
    CAST(:reasons AS text[]))
ON CONFLICT DO NOTHING
