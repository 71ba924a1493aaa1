-- Purpose: which of an API's message ids were received from a mailbox already.
SELECT provider_message_id FROM reply.inbound_message
WHERE workspace_id = :workspace AND mailbox_id = :mailbox
  AND provider_message_id = ANY (CAST(:ids AS text[]))
