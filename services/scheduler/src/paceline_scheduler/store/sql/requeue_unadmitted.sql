-- Purpose: call scheduler.requeue_unadmitted.
SELECT scheduler.requeue_unadmitted(
    CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]), CAST(:campaigns AS bigint[]))
