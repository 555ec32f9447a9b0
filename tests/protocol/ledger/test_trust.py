"""Trust policies: the example of the specification, quorums, and lines that are nearly right."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.errors import FormatError, UsageError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger import trust
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.trust import (
    MAX_POLICY_BYTES,
    TrustPolicy,
    flat_policy,
    quorum_size,
    read_trust,
)

LOG_KEY = PrivateKey.from_seed(b"\x31" * 32)
LOG = VerifierKey.ed25519("log.example", LOG_KEY.public)
W = [Ed25519Cosigner(f"w.example/{i}", PrivateKey.from_seed(bytes([0x40 + i]) * 32)) for i in range(6)]
HEAD = Checkpoint("log.example", 3, bytes(32))


def cosigned(*witnesses: int) -> SignedCheckpoint:
    note = HEAD.sign(LOG_KEY).note.with_signatures(*(W[i].cosign(HEAD, 1000 + i) for i in witnesses))
    return SignedCheckpoint(HEAD, note)


EXAMPLE = f"""\
# the example of c2sp.org/tlog-policy, with keys
log {LOG.text}

witness X1 {W[0].verifier.text}
witness X2 {W[1].verifier.text}   https://w.example/1
\twitness X3\t{W[2].verifier.text}
group X-witnesses 2 X1 X2 X3

witness Y1 {W[3].verifier.text}
witness Y2 {W[4].verifier.text}
witness Y3 {W[5].verifier.text}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
""".encode()


def test_the_example_accepts_exactly_its_quorums() -> None:
    policy = TrustPolicy.parse(EXAMPLE)
    for present in itertools.chain.from_iterable(itertools.combinations(range(6), k) for k in range(7)):
        enough = len(set(present) & {0, 1, 2}) >= 2 and bool(set(present) & {3, 4, 5})
        if enough:
            assert set(policy.check(cosigned(*present)).times.values()) == {1000 + i for i in present}
        else:
            with pytest.raises(VerificationError, match="quorum"):
                policy.check(cosigned(*present))


def test_a_policy_is_written_and_read_back() -> None:
    policy = TrustPolicy.parse(EXAMPLE)
    assert TrustPolicy.parse(policy.encode()) == policy
    none = TrustPolicy.parse(b"quorum none\n")
    assert TrustPolicy.parse(none.encode()) == none
    with pytest.raises(VerificationError, match="log of the policy"):
        none.check(cosigned(0))


def test_a_known_key_with_a_bad_signature_spoils_the_checkpoint() -> None:
    policy = TrustPolicy.parse(EXAMPLE)
    wrong = W[5].cosign(Checkpoint("log.example", 4, bytes(32)), 1)
    note = cosigned(0, 1, 3).note.with_signatures(wrong)
    with pytest.raises(VerificationError):
        policy.check(SignedCheckpoint(HEAD, note))


def test_a_checkpoint_of_another_log_is_refused() -> None:
    policy = TrustPolicy.parse(EXAMPLE)
    other = HEAD.sign(PrivateKey.generate())
    with pytest.raises(VerificationError, match="log of the policy"):
        policy.check(other)


def test_cosignatures_of_strangers_do_not_count() -> None:
    policy = flat_policy(LOG, [w.verifier for w in W[:4]], faulty=1)
    with pytest.raises(VerificationError, match="quorum"):
        policy.check(cosigned(0, 1, 4, 5))
    assert len(policy.check(cosigned(0, 1, 2, 4, 5)).times) == 3


@given(st.integers(1, 200), st.data())
def test_two_quorums_have_an_honest_witness_in_common(n: int, data: st.DataObject) -> None:
    f = data.draw(st.integers(0, (n - 1) // 3))
    q = quorum_size(n, f)
    assert 2 * q - n > f
    assert 2 * (q - 1) - n <= f
    assert q <= n - f


def test_more_faults_than_a_third_are_not_tolerated() -> None:
    for n, f in [(0, 0), (3, 1), (6, 2), (4, -1)]:
        with pytest.raises(UsageError):
            quorum_size(n, f)


X, Y = W[0].verifier.text, W[1].verifier.text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("quorum none\nquorum none", "line 2"),
        ("quorum A", "line 1"),
        ("quorum none extra", "line 1"),
        (f"log {X}\nquorum none", "line 1"),
        (f"log {LOG.text}\nlog {LOG.text}\nquorum none", "line 2"),
        (f"witness A {LOG.text}\nquorum none", "line 1"),
        (f"witness A {X}\nwitness B {X}\nquorum none", "line 2"),
        (f"witness A {X}\nwitness A {Y}\nquorum none", "line 2"),
        (f"witness none {X}\nquorum none", "line 1"),
        (f"witness A {X} url more\nquorum none", "line 1"),
        (f"witness A\u00a0{X}\nquorum none", "line 1"),
        ("group G all A\nquorum G", "line 1"),
        (f"witness A {X}\ngroup G 2 A\nquorum G", "line 2"),
        (f"witness A {X}\ngroup G 0 A\nquorum G", "line 2"),
        (f"witness A {X}\ngroup G 01 A\nquorum G", "line 2"),
        (f"witness A {X}\ngroup G +1 A\nquorum G", "line 2"),
        (f"witness A {X}\ngroup G all\nquorum G", "line 2"),
        (f"witness A {X}\ngroup G all A A\nquorum G", "line 2"),
        (f"witness A {X}\ngroup G all A\ngroup H all A\nquorum G", "line 3"),
        (f"witness A {X}\ngroup A all A\nquorum A", "line 2"),
        (f"witness A {X}\ngroup G all none\nquorum G", "line 2"),
        ("Quorum none", "line 1"),
        ("quorum none\r\n", ""),
        ("quorum none\x00\n", ""),
    ],
)
def test_a_line_that_is_wrong_is_named(text: str, line: str) -> None:
    with pytest.raises(FormatError) as caught:
        TrustPolicy.parse(text.encode())
    assert caught.value.where == line


def test_a_name_is_octets_and_a_kelvin_sign_is_no_k() -> None:
    with pytest.raises(FormatError, match="earlier line"):
        TrustPolicy.parse(f"witness K {X}\nquorum \u212a\n".encode())
    assert TrustPolicy.parse(b"witness \xff " + X.encode() + b"\nquorum \xff").quorum == b"\xff"


def test_witnesses_with_one_name_do_not_make_a_policy() -> None:
    twin = Ed25519Cosigner(W[0].name, PrivateKey.generate()).verifier
    with pytest.raises(UsageError, match="one name"):
        flat_policy(LOG, [W[0].verifier, twin], faulty=0)


def test_several_logs_may_be_trusted_each_key_once_and_the_signer_is_named() -> None:
    others = [PrivateKey.from_seed(bytes([n]) * 32) for n in (7, 8, 9)]
    keys = [VerifierKey.ed25519("log.example", key.public) for key in others]
    for order in itertools.permutations(range(3)):
        lines = [f"log {keys[k].text}" for k in order]
        policy = TrustPolicy.parse("\n".join([*lines, "quorum none", ""]).encode())
        assert [log.text for log in policy.logs] == [keys[k].text for k in order]
        for k in range(3):
            assert policy.check(HEAD.sign(others[k])).log == keys[k]
        with pytest.raises(FormatError, match="each log key once"):
            TrustPolicy.parse("\n".join([*lines, lines[0], "quorum none"]).encode())


def test_of_two_trusted_signers_the_first_of_the_policy_is_named_and_both_must_hold() -> None:
    other = PrivateKey.from_seed(b"\x07" * 32)
    second = VerifierKey.ed25519("log.example", other.public)
    policy = TrustPolicy.parse(f"log {LOG.text}\nlog {second.text}\nquorum none\n".encode())
    both = SignedCheckpoint(HEAD, HEAD.sign(LOG_KEY).note.with_signatures(*HEAD.sign(other).note.signatures))
    assert policy.check(both).log == LOG
    wrong = Checkpoint("log.example", 4, bytes(32)).sign(other).note.signatures
    with pytest.raises(VerificationError, match="does not verify"):
        policy.check(SignedCheckpoint(HEAD, HEAD.sign(LOG_KEY).note.with_signatures(*wrong)))


def test_a_line_may_carry_one_address() -> None:
    policy = TrustPolicy.parse(f"log {LOG.text} https://log.example/\nquorum none\n".encode())
    assert policy.logs == (LOG,)
    with pytest.raises(FormatError, match="line 1"):
        TrustPolicy.parse(f"log {LOG.text} https://log.example/ more\nquorum none\n".encode())


def test_a_key_that_is_no_text_is_named_with_its_line() -> None:
    with pytest.raises(FormatError, match="a vkey in UTF-8") as caught:
        TrustPolicy.parse(b"log \xff\xfe\nquorum none\n")
    assert caught.value.where == "line 1"


def test_witnesses_and_groups_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy is read before anything is believed: its size must not be the attacker's choice."""
    monkeypatch.setattr(trust, "_MAX_NAMES", 5)
    lines = [f"witness {n} {W[n].verifier.text}" for n in range(3)]
    full = [*lines, "group A any 0", "group B any 1"]
    assert len(TrustPolicy.parse("\n".join([*full, "quorum B"]).encode()).groups) == 2
    for more in ("group C any 2", f"witness 3 {W[3].verifier.text}"):
        with pytest.raises(FormatError, match="at most 5 witnesses and groups") as caught:
            TrustPolicy.parse("\n".join([*full, more, "quorum B"]).encode())
        assert caught.value.where == "line 6"


def test_a_trust_file_is_a_policy_or_one_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "trust"
    for text in (LOG.text, f"{LOG.text}\n", f"  {LOG.text}\n\n"):
        path.write_text(text)
        assert read_trust(path) == TrustPolicy((LOG,), {}, {}, None)
    path.write_bytes(EXAMPLE)
    assert read_trust(path) == TrustPolicy.parse(EXAMPLE)
    for text in ("", "quorum none extra", f"{LOG.text} {LOG.text}", W[0].verifier.text, "log"):
        path.write_text(text)
        with pytest.raises(FormatError):
            read_trust(path)
    for empty in ("", " \n"):
        path.write_text(empty)
        with pytest.raises(FormatError, match="a quorum line, got none"):
            read_trust(path)
    path.write_text("quorum none\n")
    assert read_trust(path).quorum is None


def test_the_largest_policy_is_read_and_not_one_byte_more() -> None:
    policy = b"quorum none\n#"
    assert TrustPolicy.parse(policy + b"x" * (MAX_POLICY_BYTES - len(policy))).quorum is None
    with pytest.raises(FormatError):
        TrustPolicy.parse(policy + b"x" * (MAX_POLICY_BYTES + 1 - len(policy)))
