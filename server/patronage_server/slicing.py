"""Take the slice of held-out pairs that an owner contributes; the next terms name it."""

from pathlib import Path

from patronage_protocol.errors import UsageError
from patronage_protocol.files import write_atomic
from patronage_protocol.joining import read_envelope
from patronage_protocol.keys import PublicKey
from patronage_protocol.manifest import GameTerms
from patronage_protocol.pair_files import read_pairs
from patronage_protocol.settings import read_settings
from patronage_protocol.slices import Contribution, check_apart
from patronage_server.home import OperatorHome
from patronage_server.network import Network
from patronage_server.terms import RoundTerms

__all__ = ["take_slice"]


def take_slice(home: OperatorHome, network: Network, path: Path) -> Contribution:
    """Check the slice in a file and keep it; the same file twice is harmless.

    Raises:
        DataError, FormatError, VerificationError: it is no slice, not signed by its owner, its pairs are not
            those that its owner committed to, or a prompt is held out already.
        UsageError: its owner is not registered or has another slice here, or the terms have no use for it.
        UnavailableError: it cannot be read or kept.
    """
    _require_use(read_settings(home.path / "terms.toml", RoundTerms))
    envelope = read_envelope(path)
    new = Contribution.claimed(envelope)
    owner = next((party for party in network.parties if party.name == new.owner), None)
    if owner is None:
        raise UsageError(
            "a slice of a registered owner",
            got=f"one of {new.owner}",
            do="register it first: patronage operator register DIR FILE",
        )
    new.require_signer(envelope, PublicKey.from_base64(owner.key))
    kept = home.slice_file(new.owner)
    if kept.exists():
        if Contribution.claimed(read_envelope(kept)) == new:
            return new
        raise UsageError(
            f"one slice of {new.owner}",
            got="another one than it has here",
            do=f"remove {kept} first, once no round that names it is under way",
        )
    others = {"the operator": read_pairs(home.held_out).pairs}
    for party in network.parties:
        if (theirs := home.slice_file(party.name)).exists():
            others[f"the slice of {party.name}"] = Contribution.claimed(read_envelope(theirs)).pairs
    check_apart(new.owner, new.pairs, others)
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomic(kept, envelope.encode(), mode=0o600)
    return new


def _require_use(terms: RoundTerms) -> None:
    if not isinstance(terms.game, GameTerms):
        raise UsageError(
            "terms of a game on margins",
            got="the utility reward, which takes no owners' slices",
            do="mend [game] in terms.toml, or do without the slice",
        )
    if not terms.slices.most_percent:
        raise UsageError(
            "terms that say how much a slice may weigh",
            got="none",
            do="set most_percent under [slices] in terms.toml, 20 for a fifth of all held-out pairs",
        )
