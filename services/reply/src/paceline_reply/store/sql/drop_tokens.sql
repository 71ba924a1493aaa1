-- Purpose: drop the tokens of mailboxes that are connected no more, or connected anew since.
-- In: parallel arrays workspaces, mailboxes.
DELETE FROM reply.oauth_token AS t
USING unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]))
      AS w(workspace_id, mailbox_id)
WHERE t.workspace_id = w.workspace_id AND t.mailbox_id = w.mailbox_id
  AND NOT EXISTS (
      SELECT FROM gateway.v_mailbox_read AS m
      WHERE m.workspace_id = t.workspace_id AND m.mailbox_id = t.mailbox_id
        AND m.credential_version = t.credential_version
  )
