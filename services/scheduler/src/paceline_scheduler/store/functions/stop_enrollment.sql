-- Purpose: end one enrollment by an operator's word. p_state: stopped, replied, unsubscribed, …
-- false when it had ended already. A submission under way is left to finish.
CREATE OR REPLACE FUNCTION scheduler.stop_enrollment(
    p_workspace bigint, p_enrollment bigint, p_state text, p_reason text
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM finish_enrollments(
        ARRAY[p_workspace], ARRAY[p_enrollment], ARRAY[p_state], ARRAY[p_reason]));
END $$;
