-- Purpose: the messages of campaigns, positions from 1.
CREATE OR REPLACE VIEW gateway.v_step WITH (security_barrier) AS
SELECT
    workspace_id, campaign_id, step_id, position, delay_s, subject, text_template, html_template,
    version
FROM gateway.step;
