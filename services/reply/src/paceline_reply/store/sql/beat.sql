-- Purpose: say that this instance lives (as the worker role). Out: how many do, this one included.
-- In: instance, silent_s after which one counts as gone.
WITH beaten AS (
    INSERT INTO reply.instance AS i (instance_id)
    VALUES (CAST(:instance AS uuid))
    ON CONFLICT (instance_id) DO UPDATE SET beat_at = clock_timestamp()
    RETURNING instance_id
)
SELECT 1 + count(*) FROM reply.instance
WHERE instance_id <> (SELECT instance_id FROM beaten)
  AND beat_at > clock_timestamp() - make_interval(secs => :silent_s)
