-- Purpose: the public id of a row, the same rule as paceline_common.ids.encode; n >= 0.
-- The factor in halves, 1481765933 and 1284865837: no product of 32 bits with one of them reaches
-- 2^63, and what goes beyond 2^64 falls away.
CREATE OR REPLACE FUNCTION scheduler.public_id(kind text, n bigint) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT kind || '_' || lpad(to_hex(
        (((n & 4294967295) * 1284865837 >> 32) + ((n & 4294967295) * 1481765933 & 4294967295)
            + ((n >> 32) * 1284865837 & 4294967295)) << 32
        | ((n & 4294967295) * 1284865837 & 4294967295)), 16, '0')
$$;
