-- Purpose: all the sender needs to build a job's message. Test jobs have no lead.
CREATE OR REPLACE VIEW scheduler.v_job_content WITH (security_barrier) AS
SELECT
    j.workspace_id, j.job_id, j.kind, j.fence, j.state, j.enrollment_id, j.campaign_id, j.step,
    j.mailbox_id, e.lead_id, l.email, l.first_name, l.last_name, l.company, l.fields, j.attempts,
    j.first_deferred_at
FROM scheduler.send_job AS j
LEFT JOIN scheduler.enrollment AS e USING (workspace_id, enrollment_id)
LEFT JOIN scheduler.lead AS l USING (workspace_id, lead_id);
