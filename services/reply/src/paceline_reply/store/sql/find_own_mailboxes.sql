-- Purpose: which of these addresses (lower case) are mailboxes of the workspace itself.
SELECT lower(email) FROM gateway.v_mailbox
WHERE workspace_id = :workspace AND lower(email) = ANY (CAST(:addresses AS text[]))
