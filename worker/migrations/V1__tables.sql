-- The tables of one worker. SCHEMA.md beside this directory explains them to people.
-- The worker is the only writer; every name is qualified, so that no search_path can redirect it.

CREATE TYPE tercet.promise AS (epoch bigint, n bigint, incarnation bigint);
COMMENT ON TYPE tercet.promise IS
    'What a replica promises per partition: to refuse everything below it. Compared whole, column by column.';

CREATE TYPE tercet.ballot AS (epoch bigint, n bigint, incarnation bigint, seq bigint);
COMMENT ON TYPE tercet.ballot IS
    'Name and rank of one put. Compared whole, column by column. All zeros: below every ballot ever issued.';

CREATE TABLE tercet.identity (
    one             boolean PRIMARY KEY DEFAULT true CHECK (one),
    format_version  integer NOT NULL DEFAULT 1,
    worker_uuid     uuid    NOT NULL DEFAULT gen_random_uuid(),
    worker_id       text    NOT NULL,
    cluster_id      text    NOT NULL,
    boot_generation bigint  NOT NULL,
    checkpoint_seq  bigint  NOT NULL DEFAULT 0,
    ring_epoch      bigint,
    ring            bytea,
    CHECK ((ring IS NULL) = (ring_epoch IS NULL))
);
COMMENT ON TABLE tercet.identity IS 'Who this data is. One row.';
COMMENT ON COLUMN tercet.identity.one IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN tercet.identity.format_version IS
    'Version of the binary formats inside bytea columns (clock, vector, advances). The schema has its own version in schema_history.';
COMMENT ON COLUMN tercet.identity.worker_uuid IS 'Drawn when the database was first used.';
COMMENT ON COLUMN tercet.identity.worker_id IS 'The only worker that may use this database.';
COMMENT ON COLUMN tercet.identity.cluster_id IS 'The only cluster that this data belongs to.';
COMMENT ON COLUMN tercet.identity.boot_generation IS
    'Grows each time a worker opens the database. Connections made under an older one are turned away.';
COMMENT ON COLUMN tercet.identity.checkpoint_seq IS
    'partition.vector and partition.highest cover every journal row up to this seq.';
COMMENT ON COLUMN tercet.identity.ring_epoch IS 'Epoch of the ring configuration that was accepted.';
COMMENT ON COLUMN tercet.identity.ring IS 'The accepted ring configuration as its wire bytes.';

CREATE TABLE tercet.proof (
    one       boolean     PRIMARY KEY DEFAULT true CHECK (one),
    commits   bigint      NOT NULL DEFAULT 0,
    proved_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);
COMMENT ON TABLE tercet.proof IS 'Written by every heartbeat, to prove that the database still commits. One row.';
COMMENT ON COLUMN tercet.proof.one IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN tercet.proof.commits IS 'How many proofs there were.';
COMMENT ON COLUMN tercet.proof.proved_at IS 'When the last one was, by this server''s clock.';
INSERT INTO tercet.proof DEFAULT VALUES;

CREATE TABLE tercet.partition (
    id          smallint       PRIMARY KEY CHECK (id BETWEEN 0 AND 1023),
    promised    tercet.promise NOT NULL DEFAULT ROW(0, 0, 0)::tercet.promise,
    floor       tercet.ballot  NOT NULL DEFAULT ROW(0, 0, 0, 0)::tercet.ballot,
    flush       tercet.ballot  NOT NULL DEFAULT ROW(0, 0, 0, 0)::tercet.ballot,
    flush_clock bytea          NOT NULL DEFAULT '',
    vector      bytea          NOT NULL DEFAULT '',
    highest     tercet.ballot  NOT NULL DEFAULT ROW(0, 0, 0, 0)::tercet.ballot
) WITH (fillfactor = 50);
COMMENT ON TABLE tercet.partition IS 'One row for each of the 1024 partitions.';
COMMENT ON COLUMN tercet.partition.id IS 'CRC16 slot of the key divided by 16.';
COMMENT ON COLUMN tercet.partition.promised IS 'Everything below it is refused. Never lowered.';
COMMENT ON COLUMN tercet.partition.floor IS
    'Tombstones at or below it may have been collected: an absent row''s put must be above it.';
COMMENT ON COLUMN tercet.partition.flush IS 'Rows below it count as deleted at it. Never lowered.';
COMMENT ON COLUMN tercet.partition.flush_clock IS 'Vector clock of the flush; format as entry.clock.';
COMMENT ON COLUMN tercet.partition.vector IS
    'Join of the clocks of all that was stored up to identity.checkpoint_seq; later ones are in journal.advances. Format as entry.clock.';
COMMENT ON COLUMN tercet.partition.highest IS
    'Highest ballot that was stored up to identity.checkpoint_seq; later ones are in journal.advances.';
INSERT INTO tercet.partition (id) SELECT generate_series(0, 1023);

CREATE TABLE tercet.entry (
    partition   smallint NOT NULL,
    kind        smallint NOT NULL,
    key_hash    bytea    NOT NULL,
    epoch       bigint   NOT NULL,
    n           bigint   NOT NULL,
    incarnation bigint   NOT NULL,
    seq         bigint   NOT NULL,
    expires_at  bigint,
    key         bytea    NOT NULL,
    clock       bytea    NOT NULL,
    value       bytea,
    PRIMARY KEY (partition, key_hash)
) WITH (
    -- Room on the page for the next version of a row: an update that leaves expires_at alone then touches no index.
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 1
);
-- Compressing costs more than it saves for small values, and clients compress large ones.
ALTER TABLE tercet.entry ALTER COLUMN value SET STORAGE EXTERNAL;
CREATE INDEX entry_expiry ON tercet.entry (partition, expires_at) WHERE expires_at IS NOT NULL;
COMMENT ON TABLE tercet.entry IS 'The newest version of every key, tombstones included. tercet.kv shows it readably.';
COMMENT ON COLUMN tercet.entry.partition IS 'Partition of the key.';
COMMENT ON COLUMN tercet.entry.kind IS '0: tombstone. 1: string. Other types of value take new numbers.';
COMMENT ON COLUMN tercet.entry.key_hash IS 'First 16 bytes of the BLAKE3 hash of the key.';
COMMENT ON COLUMN tercet.entry.epoch IS 'Ballot, first part: the partition''s configuration.';
COMMENT ON COLUMN tercet.entry.n IS 'Ballot, second part: with incarnation, the term of the owner.';
COMMENT ON COLUMN tercet.entry.incarnation IS 'Ballot, third part: the owner, one life of one frontend.';
COMMENT ON COLUMN tercet.entry.seq IS 'Ballot, last part: the number of the owner''s put.';
COMMENT ON COLUMN tercet.entry.expires_at IS 'Milliseconds since 1970 at which the value expires; NULL: never.';
COMMENT ON COLUMN tercet.entry.key IS 'The key itself, any bytes.';
COMMENT ON COLUMN tercet.entry.clock IS
    'Vector clock: 16 bytes per entry, incarnation and counter, big-endian, sorted by incarnation.';
COMMENT ON COLUMN tercet.entry.value IS 'The value, any bytes; NULL in a tombstone.';
COMMENT ON INDEX tercet.entry_expiry IS 'For the sweeper: what has expired in a partition.';

CREATE TABLE tercet.journal (
    seq        bigint     PRIMARY KEY,
    partitions smallint[] NOT NULL,
    key_hashes bytea[]    NOT NULL,
    flushed    smallint[] NOT NULL,
    advances   bytea      NOT NULL
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0.1);
ALTER TABLE tercet.journal
    ALTER COLUMN partitions SET STORAGE EXTERNAL,
    ALTER COLUMN key_hashes SET STORAGE EXTERNAL,
    ALTER COLUMN advances SET STORAGE EXTERNAL;
COMMENT ON TABLE tercet.journal IS
    'One row per commit: which keys it wrote. Bounded; old rows are dropped once a checkpoint covers them.';
COMMENT ON COLUMN tercet.journal.seq IS
    'Numbered by the worker. Commits may end out of order; an aborted one leaves a gap.';
COMMENT ON COLUMN tercet.journal.partitions IS 'Partition of each key, in the order of key_hashes.';
COMMENT ON COLUMN tercet.journal.key_hashes IS 'Hash of each key that the commit carried.';
COMMENT ON COLUMN tercet.journal.flushed IS 'Partitions that the commit flushed.';
COMMENT ON COLUMN tercet.journal.advances IS
    'What the commit added to its partitions'' vector and highest since the last checkpoint; format in SCHEMA.md.';

CREATE TABLE tercet.conflict (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    found_at    timestamptz NOT NULL DEFAULT now(),
    incident    uuid        NOT NULL,
    kept        boolean     NOT NULL,
    partition   smallint    NOT NULL,
    kind        smallint    NOT NULL,
    key_hash    bytea       NOT NULL,
    epoch       bigint      NOT NULL,
    n           bigint      NOT NULL,
    incarnation bigint      NOT NULL,
    seq         bigint      NOT NULL,
    expires_at  bigint,
    key         bytea       NOT NULL,
    clock       bytea       NOT NULL,
    value       bytea
);
ALTER TABLE tercet.conflict ALTER COLUMN value SET STORAGE EXTERNAL;
COMMENT ON TABLE tercet.conflict IS
    'Both copies of a key where the clock strictly dominates against ballot order: a broken invariant, for a person to look at.';
COMMENT ON COLUMN tercet.conflict.id IS 'Number of the row.';
COMMENT ON COLUMN tercet.conflict.found_at IS 'When it was found, by this server''s clock.';
COMMENT ON COLUMN tercet.conflict.incident IS 'The two copies of one conflict share it.';
COMMENT ON COLUMN tercet.conflict.kept IS 'Whether this copy, the one of the higher ballot, stayed in entry.';
COMMENT ON COLUMN tercet.conflict.partition IS 'As in entry.';
COMMENT ON COLUMN tercet.conflict.kind IS 'As in entry.';
COMMENT ON COLUMN tercet.conflict.key_hash IS 'As in entry.';
COMMENT ON COLUMN tercet.conflict.epoch IS 'As in entry.';
COMMENT ON COLUMN tercet.conflict.n IS 'As in entry.';
COMMENT ON COLUMN tercet.conflict.incarnation IS 'As in entry.';
COMMENT ON COLUMN tercet.conflict.seq IS 'As in entry.';
COMMENT ON COLUMN tercet.conflict.expires_at IS 'As in entry.';
COMMENT ON COLUMN tercet.conflict.key IS 'As in entry.';
COMMENT ON COLUMN tercet.conflict.clock IS 'As in entry.';
COMMENT ON COLUMN tercet.conflict.value IS 'As in entry.';
