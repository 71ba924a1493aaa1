-- Purpose: change what is known of a lead. Keys of p_patch: first_name, last_name, company,
-- timezone, fields (merged; a null value removes one). An address never changes.
-- false when there is no such lead.
CREATE OR REPLACE FUNCTION scheduler.edit_lead(
    p_workspace bigint, p_lead bigint, p_patch jsonb
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler, pg_temp AS $$
DECLARE
    v_unknown text;
BEGIN
    SELECT k INTO v_unknown FROM jsonb_object_keys(p_patch) AS k
    WHERE k NOT IN ('first_name', 'last_name', 'company', 'timezone', 'fields') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a lead has no field ' || v_unknown || ' that can be edited';
    END IF;
    UPDATE lead AS l
    SET first_name = CASE WHEN p_patch ? 'first_name' THEN p_patch ->> 'first_name'
            ELSE l.first_name END,
        last_name = CASE WHEN p_patch ? 'last_name' THEN p_patch ->> 'last_name'
            ELSE l.last_name END,
        company = CASE WHEN p_patch ? 'company' THEN p_patch ->> 'company' ELSE l.company END,
        timezone = CASE WHEN p_patch ? 'timezone' THEN p_patch ->> 'timezone'
            ELSE l.timezone END,
        fields = jsonb_strip_nulls(l.fields || coalesce(p_patch -> 'fields', '{}')),
        updated_at = clock_timestamp()
    WHERE (l.workspace_id, l.lead_id) = (p_workspace, p_lead);
    RETURN FOUND;
END $$;
