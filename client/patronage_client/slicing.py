"""Contribute a slice of held-out pairs: commit to them, and write the file that the operator needs.

Others are scored on these pairs, their owner is not. Unlike the pairs that it trains on, they leave its
machine; what is not opened in a dispute stays between owner and operator.
"""

from pathlib import Path

from patronage_client.home import OwnerHome
from patronage_protocol.errors import LocalProtocolError, UsageError
from patronage_protocol.files import write_atomic
from patronage_protocol.joining import read_envelope
from patronage_protocol.manifest import HeldOutTerms, Manifest, SliceTerms
from patronage_protocol.pair_files import read_pairs
from patronage_protocol.slices import Contribution, check_apart

__all__ = ["contribute", "require_own_slice"]


def contribute(home: OwnerHome, pairs: Path) -> Contribution:
    """Write slice.json for the pairs in a file.

    Raises:
        UsageError: there is a slice already, or too many pairs.
        DataError: pairs that cannot be used, or one prompt in two spellings.
        UnavailableError: a file cannot be read or written.
    """
    if home.slice.exists():
        raise UsageError(
            "no slice yet",
            got=str(home.slice),
            do="send this one, or remove it first if no round under way names it",
        )
    name = home.config.name
    new = Contribution.draw_up(name, read_pairs(pairs, on_bad_row=home.config.on_bad_row).pairs)
    check_apart(name, new.pairs, {})
    write_atomic(home.slice, new.seal(home.key).encode(), mode=0o600)
    return new


def require_own_slice(home: OwnerHome, manifest: Manifest) -> None:
    """A slice that the terms ascribe to this owner must be the one that it made.

    Raises:
        LocalProtocolError: it is another one, or this owner made none.
        DataError, FormatError, VerificationError, UnavailableError: slice.json cannot be read.
    """
    named = next((part for part in manifest.slices.of if part.owner == home.config.name), None)
    if named is None:
        return
    if not home.slice.exists():
        raise _not_made(named, "no slice.json")
    made = Contribution.claimed(read_envelope(home.slice)).held_out.commitment
    if made != HeldOutTerms(root=named.root, pairs=named.pairs, prompts=named.prompts):
        raise _not_made(named, f"{made.pairs} pairs with the root {made.root}")


def _not_made(named: SliceTerms, got: str) -> LocalProtocolError:
    return LocalProtocolError(
        f"{named.pairs} pairs with the root {named.root}, the slice that the terms ascribe to {named.owner}",
        got=got,
        do="restore slice.json, or ask the operator which slice it took",
    )
