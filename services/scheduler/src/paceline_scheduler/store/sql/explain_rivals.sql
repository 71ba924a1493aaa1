-- Purpose: how many other campaigns of the workspace, in rotation and with some of the same pools,
-- have first messages waiting: the last enrolled of each tells, since the first enrolled go first.
SELECT count(*) AS others
FROM gateway.v_campaign AS c
WHERE c.workspace_id = :workspace AND c.campaign_id <> :campaign
    AND c.status NOT IN ('draft', 'stopped', 'finished', 'archived')
    AND EXISTS (
        SELECT FROM jsonb_array_elements(c.tiers) AS t, jsonb_array_elements_text(t -> 'pools') AS p
        WHERE CAST(p AS bigint) = ANY (CAST(:pools AS bigint[])))
    AND NOT EXISTS (
        SELECT FROM scheduler.suspension AS s
        WHERE (s.workspace_id, s.scope, s.ref) = (c.workspace_id, 'campaign', c.campaign_id)
            AND s.closed_at IS NULL AND (s.until IS NULL OR s.until > clock_timestamp()))
    AND (
        SELECT coalesce(bool_or(j.state = 'queued'), false)
        FROM (
            SELECT e.job_id FROM scheduler.enrollment AS e
            WHERE (e.workspace_id, e.campaign_id) = (c.workspace_id, c.campaign_id)
            ORDER BY e.enrollment_id DESC
            LIMIT 5
        ) AS e
        JOIN scheduler.send_job AS j ON (j.workspace_id, j.job_id) = (:workspace, e.job_id)
        WHERE NOT j.sticky)
