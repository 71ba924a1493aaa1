-- Purpose: an instant as events carry it: RFC 3339, UTC, microseconds.
CREATE OR REPLACE FUNCTION scheduler.instant(at timestamptz) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;
