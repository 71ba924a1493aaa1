-- Purpose: a test failed again. The next is one interval later, the last at the end of the time for
-- tests; past that there is none, and a person has to help.
UPDATE scheduler.node_recheck AS r
SET attempts = r.attempts + 1, last_code = :code,
    next_at = CASE WHEN clock_timestamp() >= r.until THEN 'infinity'
        ELSE least(clock_timestamp() + r.every_s * interval '1 s', r.until) END
WHERE (r.workspace_id, r.mailbox_id, r.reason) = (:workspace, :mailbox, :reason)
RETURNING r.attempts, NOT isfinite(r.next_at) AS given_up, clock_timestamp() AS db_now
