-- Purpose: settle one doubt, with its attempt and (when sent) its message; the scheduler has been
--     told in this transaction. In: settled_as; outcome of the attempt, null to leave it as it is.
-- Out: the settled doubt with its attempt, none if it was settled before.
WITH settled AS (
    UPDATE sender.doubt AS d
    SET settled_at = clock_timestamp(), settled_as = :settled_as, settled_by = :settled_by,
        why = :why, next_look_at = NULL, looking_by = NULL, looking_until = NULL,
        evidence = d.evidence || ARRAY(SELECT jsonb_array_elements(CAST(:evidence AS jsonb)))
    WHERE (d.workspace_id, d.job_id, d.fence_no)
            = (CAST(:workspace AS bigint), CAST(:job AS bigint), CAST(:fence AS integer))
      AND d.settled_at IS NULL
    RETURNING d.*
),
answered AS (
    UPDATE sender.attempt AS a
    SET outcome = CAST(:outcome AS text), outcome_class = NULL, reason = :reason,
        provider_message_id = coalesce(CAST(:provider_message_id AS text), a.provider_message_id),
        -- What is left of a draft is tidied away with all others (`take_drafts.sql`), and at once:
        -- no process of its own tries first.
        draft_left_at = CASE WHEN CAST(:outcome AS text) = 'unsent' AND a.draft IS NOT NULL
            THEN clock_timestamp() - interval '5 minutes' ELSE a.draft_left_at END,
        finished_at = clock_timestamp()
    FROM settled AS d
    WHERE (a.workspace_id, a.job_id, a.fence) = (d.workspace_id, d.job_id, d.fence_no)
      AND a.claimed_at IS NOT NULL AND a.outcome = 'in_doubt' AND CAST(:outcome AS text) IS NOT NULL
),
written AS (
    UPDATE sender.message AS m
    SET submitted_at = coalesce(CAST(:sent_at AS timestamptz), a.claimed_at),
        provider_message_id = coalesce(CAST(:provider_message_id AS text), m.provider_message_id),
        sent_message_id = coalesce(
            nullif(CAST(:message_id AS text), m.message_id), m.sent_message_id
        ),
        thread_id = coalesce(CAST(:thread_id AS text), m.thread_id),
        thread_mailbox_id = CASE WHEN CAST(:thread_id AS text) IS NULL
            THEN m.thread_mailbox_id ELSE d.mailbox_id END
    FROM settled AS d
    JOIN sender.attempt AS a
        ON (a.workspace_id, a.job_id, a.fence) = (d.workspace_id, d.job_id, d.fence_no)
        AND a.claimed_at IS NOT NULL
    WHERE :settled_as = 'sent' AND (m.workspace_id, m.job_id) = (d.workspace_id, d.job_id)
)
SELECT d.workspace_id, d.job_id, d.fence_no, d.mailbox_id, d.enrollment_id, d.campaign_id, d.step,
    d.provider, coalesce(CAST(:message_id AS text), d.message_id) AS message_id, d.settled_at,
    a.claimed_at, a.not_after
FROM settled AS d
JOIN sender.attempt AS a
    ON (a.workspace_id, a.job_id, a.fence) = (d.workspace_id, d.job_id, d.fence_no)
    AND a.claimed_at IS NOT NULL
