-- Purpose: close the gates of all mailboxes that were connected through an OAuth app, in one
--     organization if `tenant` is given. Of the workspaces that the transaction names.
-- Out: the mailboxes, in the order in which gates are locked.
SELECT s.workspace_id, s.mailbox_id, scheduler.suspend(
    s.workspace_id, 'mailbox', s.mailbox_id, CAST(:reason AS text),
    CAST(:until AS timestamptz), 'sender', CAST(:detail AS text)
) AS suspension_id
FROM (
    SELECT m.workspace_id, m.mailbox_id
    FROM gateway.v_mailbox_send AS m
    WHERE m.oauth ->> 'provider' = CAST(:provider AS text)
      AND m.oauth ->> 'client_id' = CAST(:client AS text)
      AND (CAST(:tenant AS text) IS NULL OR m.oauth ->> 'tenant' = CAST(:tenant AS text))
    ORDER BY m.workspace_id, m.mailbox_id
    OFFSET 0
) AS s
