-- Purpose: running campaigns that send less than they could, and why: deferred, not failed.
CREATE OR REPLACE VIEW scheduler.v_campaign_throttle WITH (security_barrier) AS
SELECT workspace_id, campaign_id, throttle_cause AS cause, throttled_since AS since
FROM scheduler.campaign_policy
WHERE throttled_since IS NOT NULL;
