-- Purpose: give known leads the newest values; NULL leaves a value as it is. In: each lead once, in the
-- order of their keys; their addresses are locked.
UPDATE scheduler.lead AS l
SET email = h.email,
    first_name = coalesce(h.first_name, l.first_name),
    last_name = coalesce(h.last_name, l.last_name),
    company = coalesce(h.company, l.company),
    timezone = coalesce(h.timezone, l.timezone),
    fields = l.fields || CAST(h.fields AS jsonb), updated_at = clock_timestamp()
FROM (
    SELECT u.*
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:leads AS bigint[]), CAST(:emails AS text[]),
        CAST(:first_names AS text[]), CAST(:last_names AS text[]), CAST(:companies AS text[]),
        CAST(:timezones AS text[]), CAST(:fields AS text[])
    ) AS u(workspace_id, lead_id, email, first_name, last_name, company, timezone, fields)
    -- One lookup by key each, whatever the planner knows of the table's size.
    CROSS JOIN LATERAL (
        SELECT FROM scheduler.lead AS l
        WHERE (l.workspace_id, l.lead_id) = (u.workspace_id, u.lead_id)
        FOR NO KEY UPDATE OF l
    ) AS l
) AS h
WHERE (l.workspace_id, l.lead_id) = (h.workspace_id, h.lead_id)
