-- Purpose: leads, enrollments and first jobs of accepted requests, and the receipts of all requests.
-- In: one array entry per enrollment that is to be, its numbers drawn and its addresses locked.
-- `is_first`: it brings its lead, which is not there yet. `hold`: another campaign has the lead, so
-- there is no job yet (as in a campaign without steps); `not_before`: the days between two campaigns.
-- Then one array entry per receipt; of an event that has one already the first stands.
WITH asked AS MATERIALIZED (
    SELECT *
    FROM unnest(
        CAST(:workspaces AS bigint[]), CAST(:leads AS bigint[]), CAST(:firsts AS boolean[]),
        CAST(:enrollments AS bigint[]), CAST(:jobs AS bigint[]), CAST(:campaigns AS bigint[]),
        CAST(:addresses AS bigint[]), CAST(:domains AS bigint[]), CAST(:emails AS text[]),
        CAST(:first_names AS text[]), CAST(:last_names AS text[]), CAST(:companies AS text[]),
        CAST(:timezones AS text[]), CAST(:fields AS text[]), CAST(:steps AS integer[]),
        CAST(:start_ats AS timestamptz[]), CAST(:not_befores AS timestamptz[]),
        CAST(:holds AS boolean[]), CAST(:traceparents AS text[])
    ) AS u(workspace_id, lead_id, is_first, enrollment_id, job_id, campaign_id, address_id,
        domain_id, email, first_name, last_name, company, timezone, fields, step, start_at,
        not_before, hold, traceparent)
), leads AS (
    INSERT INTO scheduler.lead (
        workspace_id, lead_id, address_id, domain_id, email, first_name, last_name, company,
        timezone, fields)
    SELECT workspace_id, lead_id, address_id, domain_id, email, first_name, last_name, company,
        timezone, CAST(fields AS jsonb)
    FROM asked
    WHERE is_first
), enrollments AS (
    INSERT INTO scheduler.enrollment (
        workspace_id, enrollment_id, campaign_id, lead_id, address_id, domain_id, step,
        contact_hold, job_id)
    SELECT workspace_id, enrollment_id, campaign_id, lead_id, address_id, domain_id,
        coalesce(step, 1), hold, job_id
    FROM asked
), jobs AS (
    INSERT INTO scheduler.send_job (
        workspace_id, job_id, enrollment_id, campaign_id, step, due_at, reason, traceparent)
    SELECT workspace_id, job_id, enrollment_id, campaign_id, step,
        greatest(clock_timestamp(), start_at, not_before),
        CASE WHEN not_before > greatest(clock_timestamp(), start_at) THEN 'min_days_between' END,
        traceparent
    FROM asked
    WHERE job_id IS NOT NULL
), told AS (
    INSERT INTO scheduler.pace_change (workspace_id, jobs)
    SELECT workspace_id, array_agg(job_id ORDER BY job_id)
    FROM asked
    WHERE job_id IS NOT NULL
    GROUP BY workspace_id
)
INSERT INTO scheduler.receipt (
    workspace_id, source, event_id, import_id, row_number, outcome, reason, enrollment_id)
SELECT *
FROM unnest(
    CAST(:receipt_workspaces AS bigint[]), CAST(:sources AS text[]), CAST(:event_ids AS text[]),
    CAST(:imports AS bigint[]), CAST(:rows AS integer[]), CAST(:outcomes AS text[]),
    CAST(:reasons AS text[]), CAST(:receipt_enrollments AS bigint[]))
ON CONFLICT DO NOTHING
