-- Purpose: heads of chains that no checkpoint covers yet. Jumps from chain to chain over the
-- primary key instead of reading every record.
WITH RECURSIVE chain AS (
    (SELECT workspace_id, seq, digest FROM audit.audit_record
     ORDER BY workspace_id DESC, seq DESC LIMIT 1)
    UNION ALL
    SELECT n.workspace_id, n.seq, n.digest FROM chain AS c
    CROSS JOIN LATERAL (
        SELECT r.workspace_id, r.seq, r.digest FROM audit.audit_record AS r
        WHERE r.workspace_id < c.workspace_id
        ORDER BY r.workspace_id DESC, r.seq DESC LIMIT 1
    ) AS n
)
SELECT c.workspace_id, c.seq, c.digest FROM chain AS c
WHERE NOT EXISTS (SELECT FROM audit.checkpoint AS p
                  WHERE p.workspace_id = c.workspace_id AND p.seq = c.seq)
ORDER BY c.workspace_id
