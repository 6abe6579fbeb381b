-- For people: `SELECT * FROM tercet.kv WHERE key = 'greeting'`. No part of Tercet reads it.

CREATE FUNCTION tercet.readable(bytes bytea) RETURNS text
    LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog AS $$
BEGIN
    RETURN convert_from(bytes, 'UTF8');
EXCEPTION WHEN OTHERS THEN
    RETURN '\x' || encode(bytes, 'hex');
END $$;
COMMENT ON FUNCTION tercet.readable(bytea) IS
    'The bytes as text where they are UTF-8 that this database can show, else as hexadecimal digits after \x.';

CREATE FUNCTION tercet.readable_clock(clock bytea) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT '{' || coalesce(string_agg(
        to_hex(('x' || encode(substr(clock, i * 16 + 1, 8), 'hex'))::bit(64)::bigint) || ':' ||
        (('x' || encode(substr(clock, i * 16 + 9, 8), 'hex'))::bit(64)::bigint)::text, ', ' ORDER BY i), '') || '}'
    FROM generate_series(0, octet_length(clock) / 16 - 1) AS i
$$;
COMMENT ON FUNCTION tercet.readable_clock(bytea) IS 'A stored clock as {incarnation:counter, ...}, incarnations in hexadecimal.';

CREATE FUNCTION tercet.readable_time(millis bigint) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT CASE
        WHEN millis > 253402300799999 THEN 'infinity'::timestamptz
        WHEN millis < -62135596800000 THEN '-infinity'::timestamptz
        ELSE to_timestamp(millis / 1000.0)
    END
$$;
COMMENT ON FUNCTION tercet.readable_time(bigint) IS
    'Milliseconds since 1970 as a timestamp; infinity after the year 9999.';

CREATE VIEW tercet.kv AS
SELECT tercet.readable(e.key) AS key,
       tercet.readable(e.value) AS value,
       CASE e.kind WHEN 0 THEN 'tombstone' WHEN 1 THEN 'string' ELSE 'type ' || e.kind END AS kind,
       CASE
           WHEN e.kind = 0 THEN 'deleted'
           WHEN (e.epoch, e.n, e.incarnation, e.seq)
                < ((p.flush).epoch, (p.flush).n, (p.flush).incarnation, (p.flush).seq) THEN 'flushed'
           WHEN tercet.readable_time(e.expires_at) <= now() THEN 'expired'
           ELSE 'live'
       END AS state,
       tercet.readable_time(e.expires_at) AS expires_at,
       tercet.readable_clock(e.clock) AS clock,
       e.epoch || '.' || e.n || '.' || to_hex(e.incarnation) || '.' || e.seq AS ballot,
       e.partition,
       encode(e.key_hash, 'hex') AS key_hash
FROM tercet.entry AS e
JOIN tercet.partition AS p ON p.id = e.partition;
COMMENT ON VIEW tercet.kv IS 'What this worker stores, for people. One copy: the newest acknowledged version may be on the others.';
COMMENT ON COLUMN tercet.kv.key IS 'The key; hexadecimal after \x where it is no UTF-8.';
COMMENT ON COLUMN tercet.kv.value IS 'The value; hexadecimal after \x where it is no UTF-8.';
COMMENT ON COLUMN tercet.kv.kind IS 'Type of the value.';
COMMENT ON COLUMN tercet.kv.state IS 'live, expired (by this server''s clock), deleted, or flushed.';
COMMENT ON COLUMN tercet.kv.expires_at IS 'When the value expires; empty: never.';
COMMENT ON COLUMN tercet.kv.clock IS 'Vector clock as {incarnation:counter, ...}.';
COMMENT ON COLUMN tercet.kv.ballot IS 'epoch.n.incarnation.seq, as in the logs.';
COMMENT ON COLUMN tercet.kv.partition IS 'Partition of the key.';
COMMENT ON COLUMN tercet.kv.key_hash IS 'Hash of the key, in hexadecimal.';
