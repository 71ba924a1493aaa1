-- Purpose: the queued follow-ups of a campaign or pool, which its closed gate held out of the pacing
-- store (first messages kept their place in a list).
SELECT j.workspace_id, j.job_id, j.campaign_id, j.mailbox_id,
    floor(extract(epoch FROM j.due_at) * 1000)::bigint AS due_ms
FROM scheduler.send_job AS j
WHERE j.workspace_id = :workspace AND j.state = 'queued' AND j.sticky
    AND CASE CAST(:scope AS text)
        WHEN 'campaign' THEN j.campaign_id = :ref
        WHEN 'pool' THEN j.pool_id = :ref
        ELSE false
    END
    AND j.due_at <= CAST(:until AS timestamptz)
    AND NOT EXISTS (
        SELECT 1 FROM scheduler.suspension AS s
        WHERE (s.workspace_id, s.scope, s.ref) = (j.workspace_id, :scope, :ref)
            AND s.closed_at IS NULL AND (s.until IS NULL OR s.until > clock_timestamp()))
ORDER BY j.due_at, j.job_id
