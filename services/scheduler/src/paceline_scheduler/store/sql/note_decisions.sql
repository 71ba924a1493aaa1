-- Purpose: note decisions of one workspace (see `ledger.py`). Those about mailboxes and campaigns
-- that say what the open row says change nothing; others close it and open the next. Those about
-- jobs are counted per reason.
-- Lock order: decisions by scope and thing, after every other row of the transaction.
WITH noted AS MATERIALIZED (
    SELECT DISTINCT ON (u.scope, u.ref, CASE WHEN u.scope = 'job' THEN u.reason END)
        u.scope, u.ref, u.reason, u.until, CAST(u.inputs AS jsonb) AS inputs
    FROM unnest(
        CAST(:scopes AS text[]), CAST(:refs AS bigint[]), CAST(:reasons AS text[]),
        CAST(:untils AS timestamptz[]), CAST(:inputs AS text[])
    ) WITH ORDINALITY AS u(scope, ref, reason, until, inputs, n)
    ORDER BY u.scope, u.ref, CASE WHEN u.scope = 'job' THEN u.reason END, u.n DESC
), held AS MATERIALIZED (
    SELECT d.decision_id, d.scope, d.ref, d.reason, d.until, d.inputs
    FROM scheduler.decision AS d
    WHERE d.workspace_id = :workspace AND d.is_open AND d.scope <> 'job'
        AND (d.scope, d.ref) IN (SELECT n.scope, n.ref FROM noted AS n WHERE n.scope <> 'job')
    ORDER BY d.scope, d.ref
    FOR UPDATE OF d
), over AS (
    UPDATE scheduler.decision AS d SET is_open = false, last_at = clock_timestamp()
    FROM held AS h
    JOIN noted AS n USING (scope, ref)
    WHERE (d.workspace_id, d.decision_id) = (:workspace, h.decision_id)
        AND (h.reason, h.until, h.inputs) IS DISTINCT FROM (n.reason, n.until, n.inputs)
    RETURNING d.decision_id
), things AS (
    INSERT INTO scheduler.decision (workspace_id, scope, ref, reason, until, inputs)
    SELECT :workspace, n.scope, n.ref, n.reason, n.until, n.inputs
    FROM noted AS n
    LEFT JOIN held AS h USING (scope, ref)
    WHERE n.scope <> 'job'
        AND (h.decision_id IS NULL OR h.decision_id IN (SELECT over.decision_id FROM over))
    ORDER BY n.scope, n.ref
    -- Another scheduler was first; what it saw is as new.
    ON CONFLICT DO NOTHING
)
INSERT INTO scheduler.decision AS d (workspace_id, scope, ref, reason, until, inputs)
SELECT :workspace, n.scope, n.ref, n.reason, n.until, n.inputs
FROM noted AS n
WHERE n.scope = 'job'
ORDER BY n.ref, n.reason
ON CONFLICT (workspace_id, ref, reason) WHERE scope = 'job' DO UPDATE
SET times = d.times + 1, last_at = clock_timestamp(), until = excluded.until,
    inputs = excluded.inputs
