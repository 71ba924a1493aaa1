-- Purpose: the public id of a row, the same rule as paceline_common.ids.encode.
CREATE OR REPLACE FUNCTION scheduler.public_id(kind text, n bigint) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT kind || '_'
        || lpad(to_hex(div(mod(n * 6364136223846793005::numeric, 18446744073709551616),
            4294967296)::bigint), 8, '0')
        || lpad(to_hex(mod(n * 6364136223846793005::numeric, 4294967296)::bigint), 8, '0')
$$;
