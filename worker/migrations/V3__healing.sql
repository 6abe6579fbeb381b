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
