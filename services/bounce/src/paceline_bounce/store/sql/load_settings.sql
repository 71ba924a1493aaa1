-- Purpose: what the owners of mailboxes have set of their health. In: parallel arrays.
SELECT m.workspace_id, m.mailbox_id,
       coalesce(CAST(m.policy ->> 'attested' AS boolean), true) AS attested,
       coalesce(CAST(m.policy ->> 'cooldown' AS boolean), true) AS cooldown
FROM gateway.v_mailbox AS m
JOIN unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]))
     AS e(workspace_id, mailbox_id) USING (workspace_id, mailbox_id)
