-- Purpose: leads, enrollments, first jobs and receipts for accepted requests, as one set.
-- In: one array entry per request, its addresses locked and not suppressed. A known lead gets the
-- newest values; a campaign that has the lead already answers duplicate. `hold`: another campaign has
-- the lead, so no job is made yet; `not_before`: the days between two campaigns.
-- Out: outcome and enrollment per request, in order.
WITH asked AS MATERIALIZED (
    SELECT *
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:sources AS text[]), CAST(:event_ids AS text[]),
        CAST(:campaigns AS bigint[]), CAST(:addresses AS bigint[]), CAST(:domains AS bigint[]),
        CAST(:emails AS text[]), CAST(:first_names AS text[]), CAST(:last_names AS text[]),
        CAST(:companies AS text[]), CAST(:timezones AS text[]), CAST(:fields AS text[]),
        CAST(:imports AS bigint[]), CAST(:rows AS integer[]), CAST(:steps AS integer[]),
        CAST(:start_ats AS timestamptz[]), CAST(:not_befores AS timestamptz[]),
        CAST(:holds AS boolean[]), CAST(:traceparents AS text[])
    ) WITH ORDINALITY AS u(workspace_id, source, event_id, campaign_id, address_id, domain_id,
        email, first_name, last_name, company, timezone, fields, import_id, row_number, step,
        start_at, not_before, hold, traceparent, n)
), leads AS (
    INSERT INTO scheduler.lead AS l (
        workspace_id, address_id, domain_id, email, first_name, last_name, company, timezone,
        fields)
    SELECT DISTINCT ON (a.workspace_id, a.address_id)
        a.workspace_id, a.address_id, a.domain_id, a.email, a.first_name, a.last_name, a.company,
        a.timezone, CAST(a.fields AS jsonb)
    FROM asked AS a
    ORDER BY a.workspace_id, a.address_id, a.n DESC
    ON CONFLICT (workspace_id, address_id) DO UPDATE
    SET email = excluded.email,
        first_name = coalesce(excluded.first_name, l.first_name),
        last_name = coalesce(excluded.last_name, l.last_name),
        company = coalesce(excluded.company, l.company),
        timezone = coalesce(excluded.timezone, l.timezone),
        fields = l.fields || excluded.fields, updated_at = clock_timestamp()
    RETURNING l.workspace_id, l.lead_id, l.address_id
), enrollments AS (
    INSERT INTO scheduler.enrollment AS e (
        workspace_id, campaign_id, lead_id, address_id, domain_id, step, contact_hold, job_id)
    SELECT DISTINCT ON (a.workspace_id, l.lead_id, a.campaign_id)
        a.workspace_id, a.campaign_id, l.lead_id, a.address_id, a.domain_id, coalesce(a.step, 1),
        a.hold,
        CASE WHEN a.step IS NOT NULL AND NOT a.hold
            THEN nextval(pg_get_serial_sequence('scheduler.send_job', 'job_id')) END
    FROM asked AS a
    JOIN leads AS l USING (workspace_id, address_id)
    ORDER BY a.workspace_id, l.lead_id, a.campaign_id, a.n
    ON CONFLICT (workspace_id, lead_id, campaign_id) DO NOTHING
    RETURNING e.workspace_id, e.enrollment_id, e.campaign_id, e.address_id, e.job_id
), first AS (
    -- Of several requests for one enrollment the first made it.
    SELECT min(a.n) AS n, e.workspace_id, e.enrollment_id, e.job_id
    FROM enrollments AS e
    JOIN asked AS a USING (workspace_id, address_id, campaign_id)
    GROUP BY e.workspace_id, e.enrollment_id, e.job_id
), jobs AS (
    INSERT INTO scheduler.send_job (
        workspace_id, job_id, enrollment_id, campaign_id, step, due_at, reason, traceparent)
    SELECT f.workspace_id, f.job_id, f.enrollment_id, a.campaign_id, a.step,
        greatest(clock_timestamp(), a.start_at, a.not_before),
        CASE WHEN a.not_before > greatest(clock_timestamp(), a.start_at)
            THEN 'min_days_between' END,
        a.traceparent
    FROM first AS f JOIN asked AS a ON a.n = f.n
    WHERE f.job_id IS NOT NULL
    ORDER BY f.n
    RETURNING workspace_id, job_id
), told AS (
    INSERT INTO scheduler.pace_change (workspace_id, jobs)
    SELECT workspace_id, array_agg(job_id ORDER BY job_id) FROM jobs GROUP BY workspace_id
), known AS (
    SELECT a.n, e.enrollment_id
    FROM asked AS a
    JOIN scheduler.lead AS l USING (workspace_id, address_id)
    JOIN scheduler.enrollment AS e
        ON (e.workspace_id, e.lead_id, e.campaign_id)
            = (a.workspace_id, l.lead_id, a.campaign_id)
), answered AS (
    SELECT a.n, a.workspace_id, a.source, a.event_id, a.import_id, a.row_number,
        CASE WHEN f.n IS NULL THEN 'duplicate' ELSE 'enrolled' END AS outcome,
        coalesce(f.enrollment_id, e.enrollment_id, k.enrollment_id) AS enrollment_id
    FROM asked AS a
    LEFT JOIN first AS f ON f.n = a.n
    LEFT JOIN enrollments AS e ON (e.workspace_id, e.address_id, e.campaign_id)
        = (a.workspace_id, a.address_id, a.campaign_id)
    LEFT JOIN known AS k ON k.n = a.n
), receipts AS (
    INSERT INTO scheduler.receipt (
        workspace_id, source, event_id, import_id, row_number, outcome, reason, enrollment_id)
    SELECT workspace_id, source, event_id, import_id, row_number, outcome,
        CASE WHEN outcome = 'duplicate' THEN 'already_enrolled' END, enrollment_id
    FROM answered
    ORDER BY n
    ON CONFLICT DO NOTHING
)
SELECT outcome, enrollment_id FROM answered ORDER BY n
