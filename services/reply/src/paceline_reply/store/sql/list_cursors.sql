-- Purpose: which mailboxes to read, of all workspaces (as the worker role).
SELECT workspace_id, mailbox_id, version FROM reply.cursor WHERE is_active
