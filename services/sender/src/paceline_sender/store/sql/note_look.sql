-- Purpose: write what a look found, and when to look again. In: evidence, a JSON list of entries.
--     next_look_at null: the look goes on (its lease stays); else it is over. counts: whether it
--     was one. destroying: the draft is about to be destroyed.
-- Out: nothing. A doubt settled meanwhile stays as it is. The newest 50 entries are kept.
UPDATE sender.doubt AS d
SET evidence = (
        SELECT array_agg(e.entry ORDER BY e.n)
        FROM (
            SELECT e.entry, e.n, count(*) OVER () AS total
            FROM unnest(d.evidence || ARRAY(SELECT jsonb_array_elements(CAST(:evidence AS jsonb))))
                WITH ORDINALITY AS e (entry, n)
        ) AS e
        WHERE e.n > e.total - 50
    ),
    looks = d.looks + CAST(:counts AS boolean)::integer,
    destroying_since = CASE WHEN CAST(:destroying AS boolean)
        THEN coalesce(d.destroying_since, clock_timestamp()) ELSE d.destroying_since END,
    next_look_at = CASE WHEN CAST(:next_look_at AS timestamptz) IS NULL THEN d.next_look_at
        ELSE CAST(:next_look_at AS timestamptz) END,
    looking_until = CASE WHEN CAST(:next_look_at AS timestamptz) IS NULL
        THEN d.looking_until END,
    looking_by = CASE WHEN CAST(:next_look_at AS timestamptz) IS NULL THEN d.looking_by END
WHERE (d.workspace_id, d.job_id, d.fence_no)
        = (CAST(:workspace AS bigint), CAST(:job AS bigint), CAST(:fence AS integer))
  AND d.settled_at IS NULL
