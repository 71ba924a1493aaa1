-- Purpose: claimed tries that nobody will finish (as worker: all tenants).
-- Out: those whose instance has not been heard of for `dead_after_s`, and those that no living
--     instance can still have under way: past not_after by `submission_limit_s`.
SELECT a.workspace_id, a.job_id, a.fence, a.enrollment_id, a.campaign_id, a.step, a.mailbox_id,
       a.provider, a.message_id, a.claimed_at, a.not_after
FROM sender.attempt AS a
LEFT JOIN sender.instance AS i USING (instance_id)
WHERE a.outcome IS NULL
  AND a.not_after < clock_timestamp()
  AND (
      coalesce(i.beat_at, '-infinity')
          < clock_timestamp() - make_interval(secs => CAST(:dead_after_s AS double precision))
      OR a.not_after
          < clock_timestamp() - make_interval(secs => CAST(:submission_limit_s AS double precision))
  )
ORDER BY a.claimed_at
LIMIT 500
