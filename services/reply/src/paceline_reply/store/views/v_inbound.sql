-- Messages that arrived in a workspace's mailboxes. Readers: bounce, sender.
-- `report` is the raw message (RFC 5322 bytes), only of a DSN or a complaint.
CREATE OR REPLACE VIEW reply.v_inbound WITH (security_barrier) AS
SELECT workspace_id, inbound_id, mailbox_id, kind, job_id, enrollment_id, message_id,
       received_at, report, matched_by
FROM reply.inbound_message;
