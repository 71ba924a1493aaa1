-- Purpose: lock addresses of recipients by id, as enrollment does (see lock_addresses.sql).
SELECT a.workspace_id, a.address_id
FROM scheduler.address AS a
WHERE (a.workspace_id, a.address_id) IN (
    SELECT * FROM unnest(CAST(:workspaces AS bigint[]), CAST(:addresses AS bigint[])))
ORDER BY a.workspace_id, a.address_id
FOR NO KEY UPDATE OF a
