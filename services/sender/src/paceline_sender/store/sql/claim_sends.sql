-- Purpose: claim jobs and write, in the same transaction, their attempt and their message.
-- In: parallel arrays, one entry per job. Out: one row per job with the scheduler's verdict, the
--     clock, and the Message-ID that holds for the job (null when refused).
-- Notes: a claimed job's attempt is unique per fence: a second one is an error, never a second
--     submission. A retried job keeps its message row and its Message-ID. The clock is read last:
--     MAIL FROM waits for as long as this may be behind.
WITH asked AS (
    SELECT *
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:jobs AS bigint[]), CAST(:fences AS int[]),
        CAST(:enrollments AS bigint[]), CAST(:campaigns AS bigint[]), CAST(:steps AS int[]),
        CAST(:mailboxes AS bigint[]), CAST(:providers AS text[]), CAST(:not_afters AS timestamptz[]),
        CAST(:message_ids AS text[]), CAST(:subjects AS text[]), CAST(:references AS jsonb[]),
        CAST(:variants AS text[]),
        CAST(:drafts AS jsonb[])
    ) AS t (
        workspace_id, job_id, fence, enrollment_id, campaign_id, step, mailbox_id, provider,
        not_after, message_id, subject, references_, variant, draft
    )
),
verdict AS MATERIALIZED (
    SELECT v.workspace_id, v.job_id, v.claimed, v.reason, v.db_now
    FROM scheduler.claim_send(
        CAST(:workspaces AS bigint[]), CAST(:jobs AS bigint[]), CAST(:fences AS int[])
    ) AS v
),
claimed AS MATERIALIZED (
    SELECT a.*, v.db_now
    FROM asked AS a
    JOIN verdict AS v USING (workspace_id, job_id)
    WHERE v.claimed
),
written_attempt AS (
    INSERT INTO sender.attempt (
        workspace_id, job_id, fence, attempt_no, enrollment_id, campaign_id, step, mailbox_id,
        provider, message_id, instance_id, claimed_at, not_after, draft
    )
    SELECT
        c.workspace_id, c.job_id, c.fence,
        1 + (
            SELECT count(*)
            FROM sender.attempt AS p
            WHERE p.workspace_id = c.workspace_id AND p.job_id = c.job_id
        ),
        c.enrollment_id, c.campaign_id, c.step, c.mailbox_id, c.provider, c.message_id,
        CAST(:instance AS uuid), c.db_now, c.not_after, c.draft
    FROM claimed AS c
),
written_message AS (
    INSERT INTO sender.message AS m (
        workspace_id, job_id, enrollment_id, campaign_id, step, mailbox_id, message_id, subject,
        references_, variant
    )
    SELECT
        c.workspace_id, c.job_id, c.enrollment_id, c.campaign_id, c.step, c.mailbox_id,
        c.message_id, c.subject, ARRAY(SELECT jsonb_array_elements_text(c.references_)),
        c.variant
    FROM claimed AS c
    ON CONFLICT (workspace_id, job_id) DO UPDATE
    SET mailbox_id = excluded.mailbox_id, subject = excluded.subject,
        references_ = excluded.references_, variant = excluded.variant
    RETURNING m.workspace_id, m.job_id, m.message_id
)
SELECT v.workspace_id, v.job_id, v.claimed, v.reason, clock_timestamp() AS db_now, m.message_id
FROM verdict AS v
LEFT JOIN written_message AS m USING (workspace_id, job_id)
