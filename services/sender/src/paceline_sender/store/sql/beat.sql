-- Purpose: say that this instance lives, and read the clock. Out: the Postgres clock.
INSERT INTO sender.instance AS i (instance_id)
VALUES (CAST(:instance AS uuid))
ON CONFLICT (instance_id) DO UPDATE SET beat_at = clock_timestamp()
RETURNING beat_at AS db_now
