-- Purpose: the settings of some mailboxes, or of all of the named workspaces (:mailboxes NULL).
SELECT m.workspace_id, m.mailbox_id, m.domain, m.is_active, m.timezone, m.policy, m.version
FROM gateway.v_mailbox AS m
WHERE CAST(:mailboxes AS bigint[]) IS NULL OR m.mailbox_id = ANY (CAST(:mailboxes AS bigint[]))
