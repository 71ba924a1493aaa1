-- Purpose: what is known about one doubt in the house itself. Out: one row; `email` is null for a
--     lead that is gone, `job_state` null for a job that is. `inbound` and `bounce` are the kind of
--     the first answer or report that only this message can have caused, else null.
-- Notes: what reply matched by address and subject alone may answer an earlier step: no proof.
SELECT
    c.email, c.state AS job_state, c.fence AS job_fence, clock_timestamp() AS db_now,
    (
        SELECT i.kind
        FROM reply.v_inbound AS i
        WHERE i.workspace_id = t.workspace_id AND i.job_id = t.job_id
          AND i.kind IN ('human', 'auto_reply', 'dsn', 'complaint', 'unsubscribe')
          AND i.matched_by IN ('token', 'references')
        ORDER BY i.inbound_id
        LIMIT 1
    ) AS inbound,
    (
        SELECT b.bounce_class
        FROM bounce.v_bounce AS b
        WHERE b.workspace_id = t.workspace_id AND b.job_id = t.job_id AND b.source = 'dsn'
        ORDER BY b.bounce_id
        LIMIT 1
    ) AS bounce
FROM (VALUES (CAST(:workspace AS bigint), CAST(:job AS bigint))) AS t (workspace_id, job_id)
LEFT JOIN scheduler.v_job_content AS c USING (workspace_id, job_id)
