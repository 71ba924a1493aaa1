-- Purpose: record refusals within the submission, each job once. In: parallel arrays.
-- Returns the jobs that were not recorded before.
INSERT INTO bounce.bounce (workspace_id, source, state, mailbox_id, job_id, enrollment_id,
                           bounce_class, status, code, occurred_at)
SELECT workspace_id, 'smtp', 'counted', mailbox_id, job_id, enrollment_id, bounce_class, status,
       code, occurred_at
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]), CAST(:jobs AS bigint[]),
            CAST(:enrollments AS bigint[]), CAST(:classes AS text[]), CAST(:statuses AS text[]),
            CAST(:codes AS integer[]), CAST(:instants AS timestamptz[]))
     AS e(workspace_id, mailbox_id, job_id, enrollment_id, bounce_class, status, code, occurred_at)
ORDER BY workspace_id, job_id
ON CONFLICT (workspace_id, job_id, source) WHERE state = 'counted' DO NOTHING
RETURNING workspace_id, job_id
