-- Purpose: write what became of tries. In: parallel arrays. Out: nothing.
-- Notes: a claimed try exists already and gets its outcome once; an answer that comes after the
--     reconciler gave up (in_doubt) is the truth and replaces it. Others are written whole.
--     `left_draft`: the draft is nobody's any more and to be destroyed. What recipients see is
--     kept where it differs; the ids of the provider hold for the mailbox that sent it.
WITH told AS (
    SELECT *
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:jobs AS bigint[]), CAST(:fences AS int[]),
        CAST(:claimed AS boolean[]), CAST(:enrollments AS bigint[]), CAST(:campaigns AS bigint[]),
        CAST(:steps AS int[]), CAST(:mailboxes AS bigint[]), CAST(:providers AS text[]),
        CAST(:outcomes AS text[]), CAST(:classes AS text[]), CAST(:reasons AS text[]),
        CAST(:codes AS int[]), CAST(:statuses AS text[]), CAST(:texts AS text[]),
        CAST(:provider_message_ids AS text[]), CAST(:sent_ats AS timestamptz[]),
        CAST(:drafts AS jsonb[]), CAST(:left_drafts AS boolean[]),
        CAST(:sent_message_ids AS text[]), CAST(:thread_ids AS text[])
    ) AS t (
        workspace_id, job_id, fence, claimed, enrollment_id, campaign_id, step, mailbox_id,
        provider, outcome, outcome_class, reason, code, status, text, provider_message_id, sent_at,
        draft, left_draft, sent_message_id, thread_id
    )
),
answered AS (
    UPDATE sender.attempt AS a
    SET outcome = t.outcome, outcome_class = t.outcome_class, reason = t.reason, code = t.code,
        status = t.status, text = t.text, provider_message_id = t.provider_message_id,
        finished_at = clock_timestamp(),
        draft_left_at = CASE WHEN t.left_draft THEN clock_timestamp() END
    FROM told AS t
    WHERE t.claimed AND a.workspace_id = t.workspace_id AND a.job_id = t.job_id
      AND a.fence = t.fence AND a.claimed_at IS NOT NULL
      AND (a.outcome IS NULL OR a.outcome = 'in_doubt')
),
never_claimed AS (
    INSERT INTO sender.attempt (
        workspace_id, job_id, fence, attempt_no, enrollment_id, campaign_id, step, mailbox_id,
        provider, outcome, outcome_class, reason, code, status, text, finished_at,
        draft, draft_left_at
    )
    SELECT
        t.workspace_id, t.job_id, t.fence,
        1 + (
            SELECT count(*)
            FROM sender.attempt AS p
            WHERE p.workspace_id = t.workspace_id AND p.job_id = t.job_id
        ),
        t.enrollment_id, t.campaign_id, t.step, t.mailbox_id, t.provider, t.outcome,
        t.outcome_class, t.reason, t.code, t.status, t.text, clock_timestamp(),
        t.draft, CASE WHEN t.left_draft THEN clock_timestamp() END
    FROM told AS t
    WHERE NOT t.claimed
)
UPDATE sender.message AS m
SET submitted_at = t.sent_at, provider_message_id = t.provider_message_id,
    sent_message_id = nullif(t.sent_message_id, m.message_id), thread_id = t.thread_id,
    thread_mailbox_id = t.mailbox_id
FROM told AS t
WHERE t.outcome = 'accepted' AND m.workspace_id = t.workspace_id AND m.job_id = t.job_id
