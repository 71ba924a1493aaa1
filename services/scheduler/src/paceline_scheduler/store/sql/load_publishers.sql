-- Purpose: which of these publishers may enroll into the workspaces that the transaction names.
SELECT p.workspace_id, p.publisher FROM gateway.v_publisher AS p
WHERE p.publisher = ANY (CAST(:publishers AS text[]))
