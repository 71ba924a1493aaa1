-- Purpose: addresses and whether they are suppressed, locked FOR SHARE: a suppression either sees
-- what this transaction enrolls or is seen by it.
SELECT a.workspace_id, a.address_id, a.kind, a.hash, a.reason
FROM scheduler.address AS a
WHERE (a.workspace_id, a.kind, a.hash) IN (
    SELECT * FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:kinds AS text[]), CAST(:hashes AS bytea[])))
ORDER BY a.workspace_id, a.address_id
FOR SHARE OF a
