-- Purpose: rows say that a publisher may enroll leads into a workspace.
CREATE OR REPLACE VIEW gateway.v_publisher WITH (security_barrier) AS
SELECT workspace_id, publisher
FROM gateway.publisher_workspace;
