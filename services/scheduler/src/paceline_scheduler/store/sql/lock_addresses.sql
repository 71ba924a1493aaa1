-- Purpose: addresses and whether they are suppressed, locked. Recipients are locked against each
-- other: whoever enrolls a lead sees what another has enrolled it in. Their domains are locked FOR
-- SHARE. Either way a suppression sees what this transaction enrolls or is seen by it.
WITH wanted AS MATERIALIZED (
    SELECT *
    FROM unnest(CAST(:workspaces AS bigint[]), CAST(:kinds AS text[]), CAST(:hashes AS bytea[]))
        AS u(workspace_id, kind, hash)
), recipient AS MATERIALIZED (
    SELECT a.workspace_id, a.address_id, a.kind, a.hash, a.reason
    FROM scheduler.address AS a
    WHERE (a.workspace_id, a.kind, a.hash) IN (
        SELECT w.workspace_id, w.kind, w.hash FROM wanted AS w WHERE w.kind = 'address')
    ORDER BY a.workspace_id, a.address_id
    FOR NO KEY UPDATE OF a
), domain AS MATERIALIZED (
    SELECT a.workspace_id, a.address_id, a.kind, a.hash, a.reason
    FROM scheduler.address AS a
    WHERE (a.workspace_id, a.kind, a.hash) IN (
            SELECT w.workspace_id, w.kind, w.hash FROM wanted AS w WHERE w.kind = 'domain')
        AND (SELECT count(*) FROM recipient) >= 0
    ORDER BY a.workspace_id, a.address_id
    FOR SHARE OF a
)
SELECT * FROM recipient
UNION ALL
SELECT * FROM domain
