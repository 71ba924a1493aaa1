-- Purpose: record one recipient's part of a report, once; no row comes back when it is known.
INSERT INTO bounce.bounce (workspace_id, source, state, reason, mailbox_id, job_id, enrollment_id,
                           inbound_id, part, bounce_class, status, code, diagnostic, rule,
                           occurred_at)
VALUES (:workspace, 'dsn', :state, :reason, :mailbox, :job, :enrollment, :inbound, :part,
        :bounce_class, :status, :code, :diagnostic, :rule, :occurred_at)
ON CONFLICT (workspace_id, inbound_id, part) DO NOTHING
RETURNING bounce_id
