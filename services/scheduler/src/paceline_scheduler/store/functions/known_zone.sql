-- Purpose: a zone's name if this server knows it, else UTC: one unknown name in a budget would fail
-- every reservation it is batched with. Internal.
CREATE OR REPLACE FUNCTION scheduler.known_zone(p_name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = scheduler, pg_temp AS $$
BEGIN
    PERFORM now() AT TIME ZONE p_name;
    RETURN p_name;
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN 'UTC';
END $$;
