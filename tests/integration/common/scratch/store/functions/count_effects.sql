CREATE OR REPLACE FUNCTION scratch.count_effects(p_like text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = scratch, pg_temp
AS $$ SELECT count(*) FROM effect WHERE job_id LIKE p_like || '%' $$;
