-- Purpose: add to the volumes per mailbox and day (UTC). In: parallel arrays; kind is
-- sent, hard, soft, block or other.
INSERT INTO bounce.mailbox_day AS h (workspace_id, mailbox_id, day, sent, hard, soft, block,
                                        other)
SELECT workspace_id, mailbox_id, (at AT TIME ZONE 'UTC')::date,
       count(*) FILTER (WHERE kind = 'sent'), count(*) FILTER (WHERE kind = 'hard'),
       count(*) FILTER (WHERE kind = 'soft'), count(*) FILTER (WHERE kind = 'block'),
       count(*) FILTER (WHERE kind = 'other')
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]), CAST(:kinds AS text[]),
            CAST(:instants AS timestamptz[])) AS e(workspace_id, mailbox_id, kind, at)
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
ON CONFLICT (workspace_id, mailbox_id, day) DO UPDATE
SET sent = h.sent + excluded.sent, hard = h.hard + excluded.hard, soft = h.soft + excluded.soft,
    block = h.block + excluded.block, other = h.other + excluded.other
