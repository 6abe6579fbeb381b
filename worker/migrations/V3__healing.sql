-- What repair needs: the register of the ring, what was remembered of other workers, and how far the journal reaches.

CREATE TYPE tercet.term AS (n bigint, incarnation bigint);
COMMENT ON TYPE tercet.term IS 'The term of a frontend in the register that decides ring configurations. Compared whole.';

ALTER TABLE tercet.identity
    ADD COLUMN register_promised tercet.term NOT NULL DEFAULT ROW(0, 0)::tercet.term,
    ADD COLUMN register_accepted tercet.term NOT NULL DEFAULT ROW(0, 0)::tercet.term,
    ADD COLUMN pruned_seq bigint NOT NULL DEFAULT 0;
-- Rows of the journal may be gone already, and nobody noted which: the oldest that is left tells.
UPDATE tercet.identity SET pruned_seq = coalesce((SELECT min(seq) FROM tercet.journal) - 1, checkpoint_seq);
COMMENT ON COLUMN tercet.identity.worker_uuid IS
    'Drawn when the database was first used, and again when the data was found to be outdated.';
COMMENT ON COLUMN tercet.identity.ring_epoch IS 'Number of the ring configuration that was accepted.';
COMMENT ON COLUMN tercet.identity.register_promised IS 'Lower terms are refused in the register of the ring.';
COMMENT ON COLUMN tercet.identity.register_accepted IS 'The term under which ring was accepted.';
COMMENT ON COLUMN tercet.identity.pruned_seq IS
    'Journal rows up to this seq may be deleted. Behind it, a missing seq is an aborted commit.';

ALTER TABLE tercet.partition ADD COLUMN copied bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN tercet.partition.copied IS
    'The joint epoch in which this worker became a replica by a copy that finished: in that epoch it is not copied again.';

CREATE TABLE tercet.peer_position (
    peer text   PRIMARY KEY,
    seq  bigint NOT NULL
);
COMMENT ON TABLE tercet.peer_position IS 'How far this worker has all that its peers'' journals say.';
COMMENT ON COLUMN tercet.peer_position.peer IS 'The worker_uuid of the peer''s data.';
COMMENT ON COLUMN tercet.peer_position.seq IS 'A seq of the peer''s journal.';

CREATE TABLE tercet.witness (
    worker          text   PRIMARY KEY,
    uuid            text   NOT NULL,
    boot_generation bigint NOT NULL,
    journal_seq     bigint NOT NULL
);
COMMENT ON TABLE tercet.witness IS
    'How far the other workers are known to have come: one that comes back with less has lost something.';
COMMENT ON COLUMN tercet.witness.worker IS 'Id of the worker.';
COMMENT ON COLUMN tercet.witness.uuid IS 'Its worker_uuid.';
COMMENT ON COLUMN tercet.witness.boot_generation IS 'Its boot_generation, as last told.';
COMMENT ON COLUMN tercet.witness.journal_seq IS 'Its journal seq, as last told.';

-- Space. Collected tombstones, flushed rows and leftovers are deleted in bulk, by hash or by whole partitions. `entry`
-- has its vacuum at 5 % of dead rows from the beginning, with little delay between pages: hashes of new keys fall
-- everywhere, so they fill what it frees, in the index too, before the table grows; a whole partition is a stretch of
-- the index, whose pages become free as they are. Nothing better comes of vacuuming more often, since each pass reads
-- all of the index. What is free at the table's end goes back to the file system, which is wanted there.
--
-- The journal keeps its length: as much is deleted at its old end as comes in at the new one. Vacuum has to follow every
-- few thousand commits, for new rows go where the oldest were. The old rows are neighbours, so it finds them on few
-- pages, and the visibility map spares it the rest, however long the journal is: a fixed number of dead rows suits it
-- better than a share. To truncate a table, vacuum asks for a lock that no commit gets past, and the journal would need
-- the space again at once.
ALTER TABLE tercet.journal SET (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 1,
    vacuum_truncate = off
);
