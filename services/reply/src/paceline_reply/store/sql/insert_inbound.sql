-- Purpose: record a message once; no row comes back when it is known already.
INSERT INTO reply.inbound_message (workspace_id, mailbox_id, kind, message_id, digest, job_id,
                                   enrollment_id, matched_by, received_at, report,
                                   provider_message_id)
VALUES (:workspace, :mailbox, :kind, :message_id, :digest, :job, :enrollment, :matched_by,
        :received_at, :report, :provider_message_id)
ON CONFLICT DO NOTHING
RETURNING inbound_id
