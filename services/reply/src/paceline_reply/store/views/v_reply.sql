-- Human answers, with the opening words of each. Reader: gateway.
CREATE OR REPLACE VIEW reply.v_reply WITH (security_barrier) AS
SELECT workspace_id, inbound_id, enrollment_id, mailbox_id, subject, snippet, received_at
FROM reply.reply;
