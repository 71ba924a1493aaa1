-- Purpose: tell the scheduler what became of jobs; it locks their rows, so this goes first in the
--     outcome transaction. In: parallel arrays. Out: which were applied (a stale fence is not).
SELECT f.workspace_id, f.job_id, f.applied
FROM scheduler.finish_send(
    CAST(:workspaces AS bigint[]), CAST(:jobs AS bigint[]), CAST(:fences AS int[]),
    CAST(:outcomes AS text[]), CAST(:reasons AS text[]), CAST(:retry_ats AS timestamptz[])
) AS f
