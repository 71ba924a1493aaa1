-- Purpose: a step as one mailbox would send it to somebody, for a preview: what `load_jobs` gives
--     for a job, with values of the asker's. Out: one row, or none without such a step or mailbox.
SELECT
    CAST(:email AS text) AS to_email, CAST(:first_name AS text) AS first_name,
    CAST(:last_name AS text) AS last_name, CAST(:company AS text) AS company,
    CAST(:fields AS jsonb) AS fields,
    m.email AS from_email, m.domain, m.display_name, m.reply_to, m.timezone, m.kind AS provider,
    m.return_path, m.encoding, m.headers AS mailbox_headers, m.signature_text, m.signature_html,
    m.tracking_domain, w.headers AS workspace_headers, g.track_opens, g.track_clicks,
    t.subject, t.text_template, t.html_template, t.variants, files.attachments,
    CAST(NULL AS text) AS message_id, CAST(NULL AS text) AS variant, '[]'::jsonb AS sent,
    f.subject AS first_subject, f.variants AS first_variants
FROM gateway.v_step AS t
JOIN gateway.v_mailbox AS m
    ON m.workspace_id = t.workspace_id AND m.mailbox_id = CAST(:mailbox AS bigint)
JOIN gateway.v_campaign AS g
    ON g.workspace_id = t.workspace_id AND g.campaign_id = t.campaign_id
JOIN gateway.v_workspace AS w ON w.workspace_id = t.workspace_id
LEFT JOIN gateway.v_step AS f
    ON f.workspace_id = t.workspace_id AND f.campaign_id = t.campaign_id AND f.position = 1
LEFT JOIN LATERAL (
    SELECT jsonb_agg(
        jsonb_build_object(
            'attachment_id', named.attachment_id, 'filename', a.filename,
            'content_type', a.content_type, 'size', a.size, 'storage_key', a.storage_key,
            'content_id', a.content_id
        ) ORDER BY named.place
    ) AS attachments
    FROM unnest(t.attachments) WITH ORDINALITY AS named (attachment_id, place)
    LEFT JOIN gateway.v_attachment AS a
        ON a.workspace_id = t.workspace_id AND a.attachment_id = named.attachment_id
) AS files ON true
WHERE t.workspace_id = CAST(:workspace AS bigint) AND t.campaign_id = CAST(:campaign AS bigint)
  AND t.position = CAST(:step AS int)
