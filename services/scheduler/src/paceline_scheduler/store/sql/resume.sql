-- Purpose: call scheduler.resume.
SELECT scheduler.resume(
    CAST(:workspace AS bigint), :scope, CAST(:ref AS bigint), :reason, :closed_by)
