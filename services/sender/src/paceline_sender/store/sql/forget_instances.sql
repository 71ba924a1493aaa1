-- Purpose: drop instances that ended long ago and left nothing open (as worker).
DELETE FROM sender.instance AS i
WHERE i.beat_at < clock_timestamp() - interval '1 day'
  AND NOT EXISTS (
      SELECT FROM sender.attempt AS a WHERE a.instance_id = i.instance_id AND a.outcome IS NULL
  )
