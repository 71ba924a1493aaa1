-- Purpose: forget instances whose process has ended, and let others read their mailboxes at once
-- (as the worker role). A process holds the lock of its instance for as long as it lives; one that
-- is only silent keeps its mailboxes until its leases end.
WITH living AS (
    SELECT objid FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND granted
      AND classid = CAST(hashtext('reply.instance') AS oid)
      AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
), gone AS (
    DELETE FROM reply.instance AS i
    WHERE NOT EXISTS (
        SELECT FROM living WHERE objid = CAST(hashtext(CAST(i.instance_id AS text)) AS oid)
    )
    RETURNING instance_id
)
UPDATE reply.cursor AS c SET reader = NULL, reader_until = NULL
FROM gone WHERE c.reader = gone.instance_id
