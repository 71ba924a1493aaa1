-- Purpose: opens (kind open, without url) and followed links of messages; `times` tells how often.
-- An open says little: clients load pixels ahead or not at all, and scanners follow links.
CREATE OR REPLACE VIEW gateway.v_tracked WITH (security_barrier) AS
SELECT
    workspace_id, job_id, kind, link, url, enrollment_id, campaign_id, step, times, first_at,
    last_at
FROM gateway.tracked;
