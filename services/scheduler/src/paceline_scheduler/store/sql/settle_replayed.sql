-- Purpose: quarantined leads whose repaired event was handled in this transaction.
UPDATE scheduler.quarantine AS q SET settled_at = clock_timestamp(), settled_by = 'replay'
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:entries AS bigint[]))
    AS u(workspace_id, quarantine_id)
WHERE q.workspace_id = u.workspace_id AND q.quarantine_id = u.quarantine_id
    AND q.settled_at IS NULL
