"""The transparency log on which a round is written: C2SP formats over an RFC 6962 tree.

    merkle        trees and proofs                        tiles, stored_tree   a tree in tiles
    notes         signed notes                            checkpoints          the head of a log
    cosignatures  what a witness saw, and when            trust                whom a verifier trusts
    store         the operator's log: append, sign, prove
    database, schema, guard                               how the store keeps what it acknowledged
    publish       the folder of static files              published            its strict reader
    receipts      one entry, proved alone                 witness              cosigning without forks
    equivocation  two heads that no one log has           rotation             new keys for old
    fsck          the store, recomputed                   mldsa                ML-DSA-44 where it is to be had
    cli           commands over ledgers and receipts

An entry is bytes. What an entry means is decided by `entries` and `rounds`, one floor up.
"""
