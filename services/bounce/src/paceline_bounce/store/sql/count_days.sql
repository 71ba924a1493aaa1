-- Purpose: add to the volumes per mailbox and day (UTC). In: parallel arrays; kind is sent, hard,
-- soft, block, limited, other or complaint; refused: within the submission, so a send as well.
INSERT INTO bounce.mailbox_day AS d (workspace_id, mailbox_id, day, sent, hard, soft, block,
                                     limited, other, complaint, refused)
SELECT workspace_id, mailbox_id, (at AT TIME ZONE 'UTC')::date,
       count(*) FILTER (WHERE kind = 'sent'), count(*) FILTER (WHERE kind = 'hard'),
       count(*) FILTER (WHERE kind = 'soft'), count(*) FILTER (WHERE kind = 'block'),
       count(*) FILTER (WHERE kind = 'limited'), count(*) FILTER (WHERE kind = 'other'),
       count(*) FILTER (WHERE kind = 'complaint'), count(*) FILTER (WHERE refused)
FROM unnest(CAST(:workspaces AS bigint[]), CAST(:mailboxes AS bigint[]), CAST(:kinds AS text[]),
            CAST(:instants AS timestamptz[]), CAST(:refused AS boolean[]))
     AS e(workspace_id, mailbox_id, kind, at, refused)
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
ON CONFLICT (workspace_id, mailbox_id, day) DO UPDATE
SET sent = d.sent + excluded.sent, hard = d.hard + excluded.hard, soft = d.soft + excluded.soft,
    block = d.block + excluded.block, limited = d.limited + excluded.limited,
    other = d.other + excluded.other, complaint = d.complaint + excluded.complaint,
    refused = d.refused + excluded.refused
