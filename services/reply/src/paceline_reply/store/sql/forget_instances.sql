-- Purpose: forget this instance, and those that have been silent for a day (as the worker role).
DELETE FROM reply.instance
WHERE instance_id = CAST(:instance AS uuid) OR beat_at < clock_timestamp() - interval '1 day'
