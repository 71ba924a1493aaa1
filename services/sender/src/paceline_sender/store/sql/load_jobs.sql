-- Purpose: everything needed to prepare jobs. In: parallel arrays of jobs; for a preview, which
--     takes a job in any state, perhaps a mailbox to send it from (`as_mailbox`). Out: one row per job
--     that still is what its slot says (reserved, same fence); a mailbox or step that is gone
--     leaves nulls, a file that is gone one without a storage_key. `sent` is the conversation so far: [[message_id, subject], …], oldest first.
--     `thread_id` and `previous_id` are the provider's ids of the last message of it that this
--     same mailbox sent, `previous_message_id` the Message-ID that it arrived with.
SELECT
    c.workspace_id, c.job_id, c.kind, c.fence, c.enrollment_id, c.campaign_id, c.step,
    coalesce(CAST(:as_mailbox AS bigint), c.mailbox_id) AS mailbox_id, c.email AS to_email, c.first_name, c.last_name, c.company, c.fields,
    c.first_deferred_at,
    m.email AS from_email, m.domain, m.display_name, m.reply_to, m.timezone, m.is_active,
    m.kind AS provider,
    m.return_path, m.encoding, m.headers AS mailbox_headers, m.signature_text, m.signature_html,
    m.tracking_domain, w.headers AS workspace_headers, g.track_opens, g.track_clicks,
    s.smtp, s.oauth, s.credential, s.credential_version, s.version AS settings_version,
    thread.thread_id, thread.previous_id, thread.previous_message_id,
    t.subject, t.text_template, t.html_template, t.variants, files.attachments,
    own.message_id, own.variant,
    coalesce(earlier.sent, '[]'::jsonb) AS sent,
    (
        SELECT count(*)
        FROM sender.attempt AS a
        WHERE a.workspace_id = c.workspace_id AND a.job_id = c.job_id AND a.outcome = 'deferred'
    ) AS deferrals,
    clock_timestamp() AS db_now
FROM unnest(
    CAST(:workspaces AS bigint[]), CAST(:jobs AS bigint[]), CAST(:fences AS int[])
) AS asked (workspace_id, job_id, fence)
JOIN scheduler.v_job_content AS c USING (workspace_id, job_id)
LEFT JOIN gateway.v_mailbox AS m
    ON m.workspace_id = c.workspace_id
    AND m.mailbox_id = coalesce(CAST(:as_mailbox AS bigint), c.mailbox_id)
LEFT JOIN gateway.v_mailbox_send AS s
    ON s.workspace_id = c.workspace_id AND s.mailbox_id = m.mailbox_id
LEFT JOIN gateway.v_step AS t
    ON t.workspace_id = c.workspace_id AND t.campaign_id = c.campaign_id AND t.position = c.step
LEFT JOIN gateway.v_campaign AS g
    ON g.workspace_id = c.workspace_id AND g.campaign_id = c.campaign_id
LEFT JOIN gateway.v_workspace AS w ON w.workspace_id = c.workspace_id
LEFT JOIN LATERAL (
    SELECT jsonb_agg(
        jsonb_build_object(
            'attachment_id', named.attachment_id, 'filename', f.filename,
            'content_type', f.content_type, 'size', f.size, 'storage_key', f.storage_key,
            'content_id', f.content_id
        ) ORDER BY named.place
    ) AS attachments
    FROM unnest(t.attachments) WITH ORDINALITY AS named (attachment_id, place)
    LEFT JOIN gateway.v_attachment AS f
        ON f.workspace_id = c.workspace_id AND f.attachment_id = named.attachment_id
) AS files ON true
LEFT JOIN sender.message AS own
    ON own.workspace_id = c.workspace_id AND own.job_id = c.job_id
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_array(coalesce(e.sent_message_id, e.message_id), e.subject) ORDER BY e.step, e.submitted_at)
        AS sent
    FROM sender.message AS e
    WHERE e.workspace_id = c.workspace_id AND e.enrollment_id = c.enrollment_id
      AND e.job_id <> c.job_id AND e.submitted_at IS NOT NULL
) AS earlier ON true
LEFT JOIN LATERAL (
    SELECT e.thread_id, e.provider_message_id AS previous_id,
        coalesce(e.sent_message_id, e.message_id) AS previous_message_id
    FROM sender.message AS e
    WHERE e.workspace_id = c.workspace_id AND e.enrollment_id = c.enrollment_id
      AND e.job_id <> c.job_id AND e.submitted_at IS NOT NULL
      AND e.thread_mailbox_id = m.mailbox_id
    ORDER BY e.step DESC, e.submitted_at DESC
    LIMIT 1
) AS thread ON true
WHERE (c.fence = asked.fence AND c.state = 'reserved') OR CAST(:preview AS boolean)
