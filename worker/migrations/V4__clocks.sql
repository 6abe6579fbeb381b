-- A partition's vector is no longer the join of all clocks, which only ever grew, but the clock of its highest version.

COMMENT ON COLUMN tercet.partition.vector IS
    'Clock of the version that highest names. Format as entry.clock.';
COMMENT ON COLUMN tercet.journal.advances IS
    'Where the commit raised its partitions'' highest, and the vector there; format in SCHEMA.md.';
COMMENT ON TABLE tercet.conflict IS
    'Both copies of a key of which the lower ballot has seen the higher: a broken invariant, for a person to look at. Bounded: delete what was looked at.';
