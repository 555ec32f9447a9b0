"""The tables of a ledger's store. Nothing is ever updated or deleted; triggers see to it.

Who can write to the file can drop a trigger: they guard against defects, and `fsck` and the tree against
people.
"""

__all__ = ["APPLICATION_ID", "SCHEMA"]

APPLICATION_ID = 0x50415452  # "PATR"
_TABLES = """
CREATE TABLE log (origin TEXT NOT NULL) STRICT;
CREATE TABLE keys (since INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE entries (number INTEGER PRIMARY KEY, data BLOB NOT NULL CHECK (length(data) <= 65535)) STRICT;
CREATE TABLE tiles (level INTEGER NOT NULL, number INTEGER NOT NULL,
    hashes BLOB NOT NULL CHECK (length(hashes) = 8192), middle BLOB NOT NULL CHECK (length(middle) = 512),
    root BLOB NOT NULL CHECK (length(root) = 32),
    PRIMARY KEY (level, number)) STRICT;
CREATE TABLE heads (size INTEGER PRIMARY KEY, root BLOB NOT NULL CHECK (length(root) = 32)) STRICT;
CREATE TABLE signed_heads (size INTEGER PRIMARY KEY REFERENCES heads, note BLOB NOT NULL) STRICT;
CREATE TABLE cosignatures (size INTEGER NOT NULL REFERENCES heads, name TEXT NOT NULL, keyid BLOB NOT NULL,
    signature BLOB NOT NULL, PRIMARY KEY (size, name, keyid)) STRICT;
CREATE TABLE blobs (digest TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TRIGGER entries_in_order BEFORE INSERT ON entries
    WHEN new.number IS NOT (SELECT coalesce(max(number) + 1, 0) FROM entries)
    BEGIN SELECT RAISE(ABORT, 'an entry out of order'); END;
CREATE TRIGGER heads_in_order BEFORE INSERT ON heads
    WHEN new.size <= (SELECT max(size) FROM heads)
    BEGIN SELECT RAISE(ABORT, 'a head that does not grow'); END;
"""
_APPEND_ONLY = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
    BEGIN SELECT RAISE(ABORT, '{table} only grows'); END;
"""
SCHEMA = _TABLES + "".join(
    _APPEND_ONLY.format(table=table, verb=verb)
    for table in ("log", "keys", "entries", "tiles", "heads", "signed_heads", "cosignatures", "blobs")
    for verb in ("UPDATE", "DELETE")
)
