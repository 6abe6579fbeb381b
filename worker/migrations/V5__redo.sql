-- Rows that are written over again and again go to a log first, and to their table when they have settled.

CREATE TABLE tercet.redo (
    seq  bigint PRIMARY KEY,
    rows bytea  NOT NULL
) WITH (
    -- As the journal, whose old end goes as the new one grows; only sooner.
    toast_tuple_target = 8160,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 1,
    vacuum_truncate = off,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 50000,
    toast.autovacuum_vacuum_cost_delay = 1,
    toast.vacuum_truncate = off
);
ALTER TABLE tercet.redo ALTER COLUMN rows SET STORAGE EXTERNAL;
COMMENT ON TABLE tercet.redo IS
    'Committed rows that are not in entry yet, or were not a moment ago. Empty when nothing was written for a few seconds.';
COMMENT ON COLUMN tercet.redo.seq IS 'The commit''s seq in journal.';
COMMENT ON COLUMN tercet.redo.rows IS 'Those of the commit''s rows that did not go to entry at once; format in SCHEMA.md.';

ALTER TABLE tercet.partition ADD COLUMN applied_seq bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN tercet.partition.applied_seq IS
    'What redo holds of this partition up to this seq is in entry, or was when it was deleted from there.';

-- Two arrays cost more than the rows of a small commit. Peers that were told by the old ones compare digests once.
UPDATE tercet.identity SET pruned_seq = GREATEST(pruned_seq, (SELECT max(seq) FROM tercet.journal));
ALTER TABLE tercet.journal DROP COLUMN partitions, DROP COLUMN key_hashes,
    ADD COLUMN places bytea NOT NULL DEFAULT '';
ALTER TABLE tercet.journal ALTER COLUMN places SET STORAGE EXTERNAL, ALTER COLUMN places DROP DEFAULT;
COMMENT ON COLUMN tercet.journal.places IS
    'Partition and hash of each key that the commit carried, 18 bytes each.';

COMMENT ON TABLE tercet.entry IS
    'The newest version of every key, tombstones included, but for those that are in redo. tercet.kv shows it readably.';
COMMENT ON VIEW tercet.kv IS
    'What this worker stores, for people, without what is still in tercet.redo: half a minute at most under load. One copy: the newest acknowledged version may be on the others.';
