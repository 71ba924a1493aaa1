-- Purpose: keep the opening words of a human answer.
INSERT INTO reply.reply (workspace_id, inbound_id, job_id, enrollment_id, mailbox_id, subject,
                         snippet, received_at)
VALUES (:workspace, :inbound, :job, :enrollment, :mailbox, :subject, :snippet, :received_at)
