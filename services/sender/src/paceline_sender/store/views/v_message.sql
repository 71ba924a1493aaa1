-- Purpose: what the recipient may answer to or return. Written with the claim, so that an
-- early DSN finds it. `submitted_at` is null until a provider accepted. `sent_message_id` is what
-- recipients see where the provider rewrote it: an answer may name either. `thread_id` and
-- `provider_message_id` are those of the mailbox `thread_mailbox_id`. Readers: bounce, reply.
CREATE OR REPLACE VIEW sender.v_message WITH (security_barrier) AS
SELECT workspace_id, job_id, enrollment_id, campaign_id, step, mailbox_id, message_id,
       provider_message_id, subject, references_, submitted_at, sent_message_id, thread_id,
       thread_mailbox_id
FROM sender.message;
