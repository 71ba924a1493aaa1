-- Purpose: files that steps send along. The content lies under `storage_key` in the object storage,
-- sealed for scope send (table attachment, row attachment_id); `size` is that of the content itself.
CREATE OR REPLACE VIEW gateway.v_attachment WITH (security_barrier) AS
SELECT workspace_id, attachment_id, filename, content_type, size, storage_key, content_id
FROM gateway.attachment
WHERE state = 'stored';
