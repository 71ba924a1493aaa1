-- Purpose: write health that this transaction has locked. In: the rows as a JSON array.
UPDATE bounce.mailbox_health AS h
SET version = e.version, score = e.score, stage = e.stage, fell_at = e.fell_at,
    attested = e.attested, delivered = e.delivered, cooldown_since = e.cooldown_since,
    cooldown_until = e.cooldown_until, cooldown_level = e.cooldown_level,
    recent_sends = e.recent_sends, recent_hard = e.recent_hard, newest_hour = e.newest_hour,
    hour_sends = e.hour_sends, hour_hard = e.hour_hard, recompute_at = e.recompute_at,
    updated_at = CAST(:now AS timestamptz)
FROM jsonb_to_recordset(CAST(:rows AS jsonb))
     AS e(workspace_id bigint, mailbox_id bigint, version bigint, score smallint, stage smallint,
          fell_at timestamptz, attested boolean, delivered bigint, cooldown_since timestamptz,
          cooldown_until timestamptz, cooldown_level smallint, recent_sends bigint,
          recent_hard bigint[], newest_hour timestamptz, hour_sends integer[],
          hour_hard integer[], recompute_at timestamptz)
WHERE (h.workspace_id, h.mailbox_id) = (e.workspace_id, e.mailbox_id)
