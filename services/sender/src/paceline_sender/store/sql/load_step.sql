-- Purpose: a step and a mailbox for a preview, and the first step's subject. Out: one row or none.
SELECT
    t.subject, t.text_template, t.html_template, m.email AS from_email, m.display_name,
    f.subject AS first_subject
FROM gateway.v_step AS t
JOIN gateway.v_mailbox AS m
    ON m.workspace_id = t.workspace_id AND m.mailbox_id = CAST(:mailbox AS bigint)
LEFT JOIN gateway.v_step AS f
    ON f.workspace_id = t.workspace_id AND f.campaign_id = t.campaign_id AND f.position = 1
WHERE t.workspace_id = CAST(:workspace AS bigint) AND t.campaign_id = CAST(:campaign AS bigint)
  AND t.position = CAST(:step AS int)
