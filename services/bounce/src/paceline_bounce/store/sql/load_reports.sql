-- Purpose: the raw reports that reply received.
SELECT inbound_id, mailbox_id, received_at, report
FROM reply.v_inbound
WHERE workspace_id = :workspace AND inbound_id = ANY (CAST(:inbounds AS bigint[]))
ORDER BY inbound_id
