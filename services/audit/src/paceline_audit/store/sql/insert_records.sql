-- Purpose: append records. In: parallel arrays.
INSERT INTO audit.audit_record (workspace_id, seq, event_id, source, at, action, actor, subject,
                                source_ip, before_digest, after_digest, detail, digest)
SELECT workspace_id, seq, event_id, source, at, action, actor, subject, source_ip, before_digest,
       after_digest, detail::jsonb, digest
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:seqs AS bigint[]), CAST(:event_ids AS text[]),
            CAST(:sources AS text[]), CAST(:instants AS timestamptz[]), CAST(:actions AS text[]),
            CAST(:actors AS text[]), CAST(:subjects AS text[]), CAST(:source_ips AS text[]),
            CAST(:befores AS text[]), CAST(:afters AS text[]), CAST(:details AS text[]),
            CAST(:digests AS bytea[]))
     AS e(workspace_id, seq, event_id, source, at, action, actor, subject, source_ip,
          before_digest, after_digest, detail, digest)
