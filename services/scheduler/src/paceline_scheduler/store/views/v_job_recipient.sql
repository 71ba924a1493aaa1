-- Purpose: whom a job went to, as hashes: for unsubscribes, bounces and replies.
CREATE OR REPLACE VIEW scheduler.v_job_recipient WITH (security_barrier) AS
SELECT
    j.workspace_id, j.job_id, j.enrollment_id, j.campaign_id, j.step, j.mailbox_id, e.address_id,
    a.hash AS address_hash, d.hash AS domain_hash, j.state AS job_state,
    e.state AS enrollment_state
FROM scheduler.send_job AS j
JOIN scheduler.enrollment AS e USING (workspace_id, enrollment_id)
JOIN scheduler.address AS a ON (a.workspace_id, a.address_id) = (e.workspace_id, e.address_id)
JOIN scheduler.address AS d ON (d.workspace_id, d.address_id) = (e.workspace_id, e.domain_id);
