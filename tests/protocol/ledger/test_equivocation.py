"""A fork is proven by a file, and an honest log is not accused by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.errors import FormatError, UsageError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger import merkle
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.equivocation import EquivocationProof, prove_equivocation
from patronage_protocol.ledger.merkle import NodeSource
from patronage_protocol.ledger.notes import VerifierKey

KEY = PrivateKey.from_seed(b"\x81" * 32)
LOG = VerifierKey.ed25519("log.example", KEY.public)
HONEST = [merkle.leaf_hash(bytes([number])) for number in range(40)]


def nodes(leaves: list[bytes]) -> NodeSource:
    return lambda level, index: merkle.root_of_leaves(leaves[index << level : (index + 1) << level])


def head(leaves: list[bytes], size: int, key: PrivateKey = KEY) -> SignedCheckpoint:
    return Checkpoint("log.example", size, merkle.root_of_leaves(leaves[:size])).sign(key)


@given(st.integers(1, 39), st.integers(1, 39), st.data())
def test_every_fork_is_proven(one: int, other: int, data: st.DataObject) -> None:
    old, new = sorted((one, other))
    place = data.draw(st.integers(0, old - 1))
    forked = [*HONEST[:place], merkle.leaf_hash(b"forged"), *HONEST[place + 1 :]]
    proof = prove_equivocation(head(forked, new), head(HONEST, old), LOG, node=nodes(forked))
    read = EquivocationProof.decode(proof.encode())
    smaller, larger = read.verify(LOG)
    assert (smaller.checkpoint.size, larger.checkpoint.size) == (old, new)


@given(st.integers(0, 40), st.integers(0, 40))
def test_an_honest_log_is_not_accused(one: int, other: int) -> None:
    with pytest.raises(VerificationError, match=r"do not accuse|path in a tree"):
        prove_equivocation(head(HONEST, one), head(HONEST, other), LOG, node=nodes(HONEST))


def test_a_path_of_another_tree_proves_nothing() -> None:
    forked = [merkle.leaf_hash(b"forged"), *HONEST[1:]]
    path = merkle.prefix_path(8, 12, nodes(forked))
    false = EquivocationProof.of(head(HONEST, 8), head(HONEST, 12), path)
    with pytest.raises(VerificationError, match="another root"):
        false.verify(LOG)


def test_a_head_that_the_log_did_not_sign_proves_nothing() -> None:
    forked = [merkle.leaf_hash(b"forged"), *HONEST[1:]]
    with pytest.raises(VerificationError, match=r"does not verify|signed by"):
        prove_equivocation(head(HONEST, 5), head(forked, 5, PrivateKey.generate()), LOG)


def test_heads_of_different_sizes_need_the_entries() -> None:
    with pytest.raises(UsageError, match="published folder"):
        prove_equivocation(head(HONEST, 5), head(HONEST[::-1], 9), LOG)


def test_no_byte_of_a_proof_can_change() -> None:
    forked = [merkle.leaf_hash(b"forged"), *HONEST[1:]]
    for old in (4, 5, 9):
        data = prove_equivocation(head(HONEST, old), head(forked, 9), LOG, node=nodes(forked)).encode()
        for place in range(len(data)):
            changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            with pytest.raises((FormatError, VerificationError)):
                EquivocationProof.decode(changed).verify(LOG)
