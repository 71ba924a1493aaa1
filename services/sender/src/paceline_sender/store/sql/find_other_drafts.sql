-- Purpose: which drafts of a job, in a mailbox, are not this intent's. Out: one row: `known` are the
--     ids that attempts have; `is_again`: a later lease may have made one that no attempt has yet.
SELECT
    ARRAY(
        SELECT a.draft ->> 'draft_id'
        FROM sender.attempt AS a
        WHERE (a.workspace_id, a.job_id) = (t.workspace_id, t.job_id) AND a.draft IS NOT NULL
    ) AS known,
    EXISTS (
        SELECT FROM sender.draft_intent AS i
        WHERE (i.workspace_id, i.job_id) = (t.workspace_id, t.job_id)
          AND i.mailbox_id = CAST(:mailbox AS bigint) AND i.fence > CAST(:fence AS int)
          AND NOT EXISTS (
              SELECT FROM sender.attempt AS a
              WHERE (a.workspace_id, a.job_id, a.fence) = (i.workspace_id, i.job_id, i.fence)
                AND a.draft IS NOT NULL
          )
    ) AS is_again
FROM (VALUES (CAST(:workspace AS bigint), CAST(:job AS bigint))) AS t (workspace_id, job_id)
