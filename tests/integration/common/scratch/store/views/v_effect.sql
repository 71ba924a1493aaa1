CREATE OR REPLACE VIEW scratch.v_effect WITH (security_barrier) AS
SELECT workspace_id, job_id, n, scratch.count_effects('') AS total FROM scratch.effect;
