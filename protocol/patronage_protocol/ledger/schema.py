"""The tables of a ledger's store. Nothing is ever updated or deleted; triggers see to it.

Every entry but number 0 refers to the one before it, so that numbers have no gap; that costs a third of what
a trigger for every row costs.

A head lies in the row of the last entry that it covers: one row, and one page on its way to the disk, for
an append of one entry. Only the head of no entries has no row.

Who can write to the file can drop a trigger: they guard against defects, and `fsck` and the tree against
people.
"""

__all__ = ["APPLICATION_ID", "SCHEMA"]

APPLICATION_ID = 0x50415432  # "PAT2"; "PATR" had a table of heads
_TABLES = """
CREATE TABLE log (origin TEXT NOT NULL) STRICT;
CREATE TABLE keys (since INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE entries (number INTEGER PRIMARY KEY, root BLOB CHECK (length(root) = 32),
    data BLOB NOT NULL CHECK (length(data) <= 65535),
    previous INTEGER AS (nullif(number, 0) - 1) VIRTUAL REFERENCES entries) STRICT;
CREATE VIEW heads AS SELECT number + 1 AS size, root FROM entries WHERE root IS NOT NULL;
CREATE TABLE tiles (level INTEGER NOT NULL, number INTEGER NOT NULL,
    hashes BLOB NOT NULL CHECK (length(hashes) = 8192), middle BLOB NOT NULL CHECK (length(middle) = 512),
    root BLOB NOT NULL CHECK (length(root) = 32),
    PRIMARY KEY (level, number)) STRICT;
CREATE TABLE signed_heads (size INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT;
CREATE TABLE cosignatures (size INTEGER NOT NULL REFERENCES signed_heads, name TEXT NOT NULL,
    keyid BLOB NOT NULL, signature BLOB NOT NULL, PRIMARY KEY (size, name, keyid)) STRICT;
CREATE TABLE blobs (digest TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TRIGGER only_heads_are_signed BEFORE INSERT ON signed_heads
    WHEN new.size <> 0 AND (SELECT root FROM entries WHERE number = new.size - 1) IS NULL
    BEGIN SELECT RAISE(ABORT, 'a size that has no head'); END;
"""
_APPEND_ONLY = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
    BEGIN SELECT RAISE(ABORT, '{table} only grows'); END;
"""
SCHEMA = _TABLES + "".join(
    _APPEND_ONLY.format(table=table, verb=verb)
    for table in ("log", "keys", "entries", "tiles", "signed_heads", "cosignatures", "blobs")
    for verb in ("UPDATE", "DELETE")
)
