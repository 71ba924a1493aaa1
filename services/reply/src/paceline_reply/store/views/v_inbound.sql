-- Messages that arrived in a workspace's mailboxes. Reader: bounce.
-- `report` is the raw message (RFC 5322 bytes), only of a DSN or a complaint.
CREATE OR REPLACE VIEW reply.v_inbound WITH (security_barrier) AS
SELECT workspace_id, inbound_id, mailbox_id, kind, job_id, enrollment_id, message_id,
       received_at, report
FROM reply.inbound_message;
