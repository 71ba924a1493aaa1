-- Purpose: no submission to this address starts once this commits.
SELECT scheduler.suppress(CAST(:workspace AS bigint), 'address', CAST(:hash AS bytea),
                          'hard_bounce', CAST(:source AS text), CAST(:enrollment AS bigint))
