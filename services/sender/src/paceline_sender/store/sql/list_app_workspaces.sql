-- Purpose: the workspaces with mailboxes whose grants were refreshed (as worker: all tenants).
SELECT DISTINCT t.workspace_id FROM sender.oauth_token AS t
