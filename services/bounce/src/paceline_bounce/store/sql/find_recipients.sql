-- Purpose: whom jobs went to, of every workspace of the transaction.
SELECT r.workspace_id, r.job_id, r.address_hash
FROM scheduler.v_job_recipient AS r
JOIN unnest(CAST(:workspaces AS bigint[]), CAST(:jobs AS bigint[])) AS e(workspace_id, job_id)
  USING (workspace_id, job_id)
