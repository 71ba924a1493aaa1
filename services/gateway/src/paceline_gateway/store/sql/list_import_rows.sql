-- Purpose: every data row of an import with what became of it; a row without error and without
-- receipt is pending.
-- In: workspace, import, after (row number), outcome (null: all), limit.
SELECT r.row, r.outcome, r.reason, r.enrollment_id
FROM (
    SELECT
        n.row,
        CASE WHEN e.row IS NOT NULL THEN 'error' ELSE coalesce(c.outcome, 'pending') END AS outcome,
        CASE WHEN e.row IS NOT NULL THEN e.message ELSE c.reason END AS reason,
        c.enrollment_id
    FROM gateway.lead_import AS i
    CROSS JOIN LATERAL
        generate_series(CAST(:after AS integer) + 1, i.row_count) AS n (row)
    LEFT JOIN gateway.import_error AS e
        ON (e.workspace_id, e.import_id, e.row) = (i.workspace_id, i.import_id, n.row)
    LEFT JOIN scheduler.v_receipt AS c
        ON (c.workspace_id, c.import_id, c.row_number) = (i.workspace_id, i.import_id, n.row)
    WHERE i.workspace_id = :workspace AND i.import_id = :import
) AS r
WHERE CAST(:outcome AS text) IS NULL OR r.outcome = CAST(:outcome AS text)
ORDER BY r.row
LIMIT :limit
