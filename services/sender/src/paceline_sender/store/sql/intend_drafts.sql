-- Purpose: note that drafts are about to be made. In: parallel arrays, one entry per lease. Out: nothing.
-- Notes: nobody looks for one of them before its lease has been over for `first_look_s`.
INSERT INTO sender.draft_intent AS i (
    workspace_id, job_id, fence, mailbox_id, provider, not_after, look_at
)
SELECT t.workspace_id, t.job_id, t.fence, t.mailbox_id, t.provider, t.not_after,
    t.not_after + make_interval(secs => CAST(:first_look_s AS double precision))
FROM unnest(
    CAST(:workspaces AS bigint[]), CAST(:jobs AS bigint[]), CAST(:fences AS int[]),
    CAST(:mailboxes AS bigint[]), CAST(:providers AS text[]), CAST(:not_afters AS timestamptz[])
) AS t (workspace_id, job_id, fence, mailbox_id, provider, not_after)
ON CONFLICT (workspace_id, job_id, fence) DO NOTHING
