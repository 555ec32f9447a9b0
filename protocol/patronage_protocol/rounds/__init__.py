"""The state machine of a round. Pure: an entry goes in, the next state comes out, or the clause it breaks.

The ledger's entries are its events. The operator appends an entry only after `advance` has taken it, a
restarted operator folds `advance` over the stored entries, and a verifier folds it over the published ones.

    OPEN       accept decline commit forfeit close
    CLOSED     witness abort                     the head at close, cosigned by a quorum
    REVEALING  reveal forfeit                    until every committed owner has revealed or forfeited
    INTAKE     intake                            until every revealed adapter has its verdict
    SCORING    evaluate abort
    VALUING    value
    PAYING     pay refund                        exactly the settlement of the manifest's policy, in its order
    SETTLED    ask show final                    owners may ask for held-out pairs, which are then opened
    FINAL      witness rotate revoke             the head at final, for the next round; then changes of keys

What an owner may still do follows from its standing:

    INVITED    accept -> ACCEPTED    decline -> DECLINED    forfeit -> FORFEITED
    ACCEPTED   commit -> COMMITTED   forfeit -> FORFEITED
    COMMITTED  reveal -> REVEALED    forfeit -> FORFEITED
    REVEALED   intake -> ADMITTED or REJECTED

A state carries the right edge of the Merkle tree over all entries before it, so that a cosigned head in an
entry is compared with the one that these entries have.

    state         phases, standings, all that the entries so far say
    table         the transitions above
    clauses       what entries of several kinds must keep
    contributing, heads, valuing, disputing     the clauses of each kind of entry, and what follows from it
    machine       one entry after another          history    one round after another
"""

from patronage_protocol.rounds.history import follow
from patronage_protocol.rounds.machine import advance, open_round
from patronage_protocol.rounds.state import Blobs, Phase, Round, Standing

__all__ = ["Blobs", "Phase", "Round", "Standing", "advance", "follow", "open_round"]
