"""Whom a verifier trusts: a policy file (https://c2sp.org/tlog-policy) with logs, witnesses and a quorum.

    log <vkey> [<url>]
    witness <name> <vkey> [<url>]
    group <name> all|any|<k> <name>...
    quorum <name>|none

With n witnesses of which at most f lie, two quorums of more than (n + f) / 2 have an honest witness in
common, and an honest witness never cosigns two heads that fork. `flat_policy` writes that quorum; n > 3 f
keeps the log alive when all f stay silent.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from patronage_protocol import files
from patronage_protocol.errors import FormatError, UsageError, VerificationError
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.cosignatures import cosignature_time
from patronage_protocol.ledger.notes import SignatureType, VerifierKey

__all__ = ["Group", "TrustPolicy", "Witnessed", "flat_policy", "quorum_size", "read_trust"]

MAX_POLICY_BYTES = 1 << 20
_MAX_NAMES = 1024
_NONE = b"none"
_NUMBER = re.compile(rb"[1-9][0-9]{0,3}\Z")
_FORBIDDEN = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")


@dataclass(frozen=True)
class Group:
    """A set of witnesses and groups, of which at least `threshold` must have witnessed."""

    threshold: int
    members: tuple[bytes, ...]


@dataclass(frozen=True)
class Witnessed:
    """What a policy found on a checkpoint: the log's key, and when each witness cosigned (Unix seconds)."""

    log: VerifierKey
    times: dict[str, int]


@dataclass(frozen=True)
class TrustPolicy:
    """The three parts of a policy. Names are octets and mean nothing outside of it.

    Attributes:
        logs: accepted log keys, type 01.
        witnesses: name to key, types 04 and 06.
        groups: name to group; a group refers to witnesses and to groups before it.
        quorum: the witness or group that must have witnessed, or None where no cosignature is needed.
    """

    logs: tuple[VerifierKey, ...]
    witnesses: dict[bytes, VerifierKey]
    groups: dict[bytes, Group]
    quorum: bytes | None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a policy file.

        Raises:
            FormatError: names the line.
        """
        if len(data) > MAX_POLICY_BYTES or _FORBIDDEN.search(data):
            raise FormatError(
                "a policy of at most 1 MiB without control characters",
                got="another file",
                do="check the path",
            )
        reader = _Reader()
        for number, line in enumerate(data.split(b"\n"), 1):
            words = re.findall(rb"[^ \t]+", line)
            if words and not words[0].startswith(b"#"):
                reader.read(words, number)
        if reader.quorum is None:
            raise FormatError("a quorum line", got="none", do="add one; 'quorum none' asks for no witness")
        quorum = None if reader.quorum == _NONE else reader.quorum
        return cls(tuple(reader.logs), reader.witnesses, reader.groups, quorum)

    def encode(self) -> bytes:
        """The policy as a file, without comments and addresses."""
        lines = [f"log {log.text}".encode() for log in self.logs]
        lines += [b"witness %b %b" % (name, key.text.encode()) for name, key in self.witnesses.items()]
        lines += [
            b"group %b %d %b" % (name, group.threshold, b" ".join(group.members))
            for name, group in self.groups.items()
        ]
        return b"\n".join([*lines, b"quorum %b" % (self.quorum or _NONE), b""])

    def check(self, signed: SignedCheckpoint) -> Witnessed:
        """Check that a listed log signed this checkpoint and a quorum of witnesses cosigned it.

        Raises:
            VerificationError: no listed log did, a known key's signature does not verify, or no quorum.
        """
        log = self._log_of(signed)
        times = {name: cosignature_time(signed, key) for name, key in self.witnesses.items()}
        present = {name for name, time in times.items() if time is not None}
        if self.quorum is not None and not self._witnessed(self.quorum, present):
            raise VerificationError(
                f"cosignatures that make up the quorum {_shown(self.quorum)}",
                got="those of " + (", ".join(sorted(map(_shown, present))) or "nobody"),
                do="ask further witnesses to cosign, or do not rely on it",
                where=f"checkpoint {signed.checkpoint.size}",
            )
        return Witnessed(log, {_shown(name): time for name, time in times.items() if time is not None})

    def _log_of(self, signed: SignedCheckpoint) -> VerifierKey:
        signers = [log for log in self.logs if signed.note.signature_by(log) is not None]
        for log in signers:
            signed.verify(log)
        if not signers:
            raise VerificationError(
                "a checkpoint signed by a log of the policy",
                got=f"one of {signed.checkpoint.origin}",
                do="get the log's vkey from its operator, or do not rely on it",
            )
        return signers[0]

    def _witnessed(self, name: bytes, present: set[bytes]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name in present
        return sum(self._witnessed(member, present) for member in group.members) >= group.threshold


def read_trust(path: Path) -> TrustPolicy:
    """Read a policy file; a file with a vkey alone is the policy of that log, with no witness asked for.

    Raises:
        UnavailableError: it cannot be read.
        FormatError: it is neither.
    """
    data = files.read_bytes(path, limit=MAX_POLICY_BYTES)
    if len(data.split()) == 1:
        return TrustPolicy((_vkey(data.strip(), SignatureType.ED25519),), {}, {}, None)
    return TrustPolicy.parse(data)


def quorum_size(witnesses: int, faulty: int) -> int:
    """The smallest number above (n + f) / 2.

    Raises:
        UsageError: unless 0 <= 3 f < n, so that the honest ones can make a quorum alone.
    """
    if not 0 <= 3 * faulty < witnesses:
        raise UsageError(
            "more than three times as many witnesses as may be faulty",
            got=f"{witnesses} witnesses, {faulty} faulty",
            do="add witnesses or tolerate fewer faults",
        )
    return (witnesses + faulty) // 2 + 1


def flat_policy(log: VerifierKey, witnesses: Sequence[VerifierKey], *, faulty: int) -> TrustPolicy:
    """One log and a quorum of its witnesses that holds though `faulty` of them lie.

    Raises:
        UsageError: too few witnesses for that, or two with one name.
        FormatError: a key is of the wrong type or is listed twice.
    """
    names = [key.name.encode() for key in witnesses]
    if len(set(names)) != len(names):
        raise UsageError("witnesses with different names", got="two with one name", do="rename one")
    group = Group(quorum_size(len(witnesses), faulty), tuple(names))
    policy = TrustPolicy(
        (log,), dict(zip(names, witnesses, strict=True)), {b"quorum-of-owners": group}, b"quorum-of-owners"
    )
    return TrustPolicy.parse(policy.encode())


class _Reader:
    """The state of a parse: a line may only refer to names defined before it."""

    def __init__(self) -> None:
        self.logs: list[VerifierKey] = []
        self.witnesses: dict[bytes, VerifierKey] = {}
        self.groups: dict[bytes, Group] = {}
        self.quorum: bytes | None = None
        self._used: set[bytes] = set()

    def read(self, words: list[bytes], number: int) -> None:
        try:
            match words:
                case [b"log", vkey, *url] if len(url) <= 1:
                    self._log(vkey)
                case [b"witness", name, vkey, *url] if len(url) <= 1:
                    self._witness(name, vkey)
                case [b"group", name, threshold, *members] if members:
                    self._group(name, threshold, members)
                case [b"quorum", name] if self.quorum is None:
                    if name != _NONE:
                        self._require_defined(name)
                    self.quorum = name
                case _:
                    raise _bad("a log, witness, group or (one) quorum line", _shown(b" ".join(words)))
        except FormatError as error:
            raise FormatError(error.expected, got=error.got, do=error.do, where=f"line {number}") from error

    def _log(self, vkey: bytes) -> None:
        key = _vkey(vkey, SignatureType.ED25519)
        if any(key.material == other.material for other in self.logs):
            raise _bad("each log key once", key.name)
        self.logs.append(key)

    def _witness(self, name: bytes, vkey: bytes) -> None:
        key = _vkey(vkey, SignatureType.COSIGNATURE, SignatureType.ML_DSA_44)
        if any(key.material == other.material for other in self.witnesses.values()):
            raise _bad("each witness key once", key.name)
        self._require_free(name)
        self.witnesses[name] = key

    def _group(self, name: bytes, threshold: bytes, members: list[bytes]) -> None:
        self._require_free(name)
        for member in members:
            self._require_defined(member)
            if member in self._used:
                raise _bad("each name in one group at most", _shown(member))
            self._used.add(member)
        words = {b"all": len(members), b"any": 1}
        if threshold not in words and not _NUMBER.match(threshold):
            raise _bad("a threshold: all, any or a number", _shown(threshold))
        needed = words.get(threshold) or int(threshold)
        if needed > len(members):
            raise _bad(f"a threshold of at most {len(members)}", str(needed))
        self.groups[name] = Group(needed, tuple(members))

    def _require_free(self, name: bytes) -> None:
        if name in self.witnesses or name in self.groups or name == _NONE:
            raise _bad("a name that is not taken", _shown(name))
        if len(self.witnesses) + len(self.groups) >= _MAX_NAMES:
            raise _bad(f"at most {_MAX_NAMES} witnesses and groups", "more")

    def _require_defined(self, name: bytes) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise _bad("a name defined on an earlier line", _shown(name))


def _vkey(text: bytes, *kinds: SignatureType) -> VerifierKey:
    try:
        key = VerifierKey.parse(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad("a vkey in UTF-8", _shown(text)) from error
    if key.kind not in kinds:
        raise _bad("a vkey of type " + " or ".join(f"{kind:02x}" for kind in kinds), f"type {key.kind:02x}")
    return key


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _bad(expected: str, got: str) -> FormatError:
    return FormatError(expected, got=got[:80], do="correct the policy")
