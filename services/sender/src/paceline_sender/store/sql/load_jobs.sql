-- Purpose: everything needed to prepare jobs. In: parallel arrays of jobs. Out: one row per job
--     that still is what its slot says (reserved, same fence); a mailbox or step that is gone
--     leaves nulls. `sent` is the conversation so far: [[message_id, subject], …], oldest first.
SELECT
    c.workspace_id, c.job_id, c.kind, c.fence, c.enrollment_id, c.campaign_id, c.step,
    c.mailbox_id, c.email AS to_email, c.first_name, c.last_name, c.company, c.fields,
    c.first_deferred_at,
    m.email AS from_email, m.domain, m.display_name, m.reply_to, m.timezone, m.is_active,
    m.kind AS provider,
    s.smtp, s.credential,
    t.subject, t.text_template, t.html_template,
    own.message_id,
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
JOIN scheduler.v_job_content AS c USING (workspace_id, job_id, fence)
LEFT JOIN gateway.v_mailbox AS m
    ON m.workspace_id = c.workspace_id AND m.mailbox_id = c.mailbox_id
LEFT JOIN gateway.v_mailbox_send AS s
    ON s.workspace_id = c.workspace_id AND s.mailbox_id = c.mailbox_id
LEFT JOIN gateway.v_step AS t
    ON t.workspace_id = c.workspace_id AND t.campaign_id = c.campaign_id AND t.position = c.step
LEFT JOIN sender.message AS own
    ON own.workspace_id = c.workspace_id AND own.job_id = c.job_id
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_array(e.message_id, e.subject) ORDER BY e.step, e.submitted_at)
        AS sent
    FROM sender.message AS e
    WHERE e.workspace_id = c.workspace_id AND e.enrollment_id = c.enrollment_id
      AND e.job_id <> c.job_id AND e.submitted_at IS NOT NULL
) AS earlier ON true
WHERE c.state = 'reserved'
