-- Purpose: call scheduler.suspend.
SELECT scheduler.suspend(
    CAST(:workspace AS bigint), :scope, CAST(:ref AS bigint), :reason,
    CAST(:until AS timestamptz), :opened_by, :detail)
