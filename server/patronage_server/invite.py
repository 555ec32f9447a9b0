"""Draw up the terms of the next round and write the file that owners are invited with."""

import secrets

from patronage_protocol.canonical import sha256
from patronage_protocol.errors import UsageError
from patronage_protocol.files import write_atomic
from patronage_protocol.joining import Invitation, write_envelope
from patronage_protocol.manifest import Manifest, Party
from patronage_protocol.policy import shared_base_model
from patronage_protocol.rounds import Phase, Round
from patronage_protocol.settings import read_settings
from patronage_server.book import Book
from patronage_server.bundle import BUNDLE
from patronage_server.development import published_development
from patronage_server.drafting import draw_up, with_current_keys
from patronage_server.home import OperatorHome
from patronage_server.network import Network
from patronage_server.rewards import with_scorers
from patronage_server.terms import RoundTerms

__all__ = ["invite", "witnesses_to_spare"]

SECRET_BYTES = 32


def invite(home: OperatorHome, network: Network, *, now: int) -> Manifest:
    """Write manifest.json and invitation.json for a round that opens `now` (Unix seconds).

    Raises:
        UsageError: the round before is not final, or fewer than two owners are registered.
        PatronageError: terms, held-out pairs or base model cannot be used.
    """
    owners = network.parties
    if len(owners) < 2:
        raise UsageError(
            "at least two registered owners",
            got=str(len(owners)),
            do="register more: patronage operator register DIR FILE",
        )
    key = home.key  # a passphrase is asked for before the work, not after it
    terms = read_settings(home.path / "terms.toml", RoundTerms)
    history = _history(home, network)
    base = shared_base_model(
        home.config.base_model,
        precision=home.config.precision,
        device=home.config.device,
        cache=home.cache,
    )
    held_out = home.held_out_sets(owner.name for owner in owners)
    manifest = draw_up(
        with_scorers(terms, held_out.pairs, device=str(base.device)),
        consortium=network.config.consortium,
        number=history[-1].manifest.round + 1 if history else 1,
        seed=sha256(secrets.token_bytes(SECRET_BYTES)),
        operator=Party(name=network.config.name, key=key.public.text),
        owners=with_current_keys(owners, history),
        base=base,
        held_out=held_out,
        now=now,
        history=history,
        development=published_development(home, held_out.pairs),
    )
    write_atomic(home.path / "manifest.json", manifest.encode())
    invitation = Invitation(
        address=network.config.address,
        certificate=network.certificate_authority.read_text(encoding="ascii"),
        bundle=sha256(BUNDLE),
        manifest=manifest,
        rotations=history[-1].keys.log.statements if history else (),
    )
    write_envelope(home.path / "invitation.json", invitation.seal(key))
    return manifest


def witnesses_to_spare(manifest: Manifest) -> str:
    """What must not happen between this invitation and the end, said while it can still be avoided."""
    witness = manifest.witness
    spare = len(witness.owners) - witness.quorum
    return (
        f"{witness.quorum} of the {len(witness.owners)} witnesses must cosign the end of the round; no round "
        f"follows it if {'any of them' if not spare else f'more than {spare} of them'} is lost for good."
    )


def _history(home: OperatorHome, network: Network) -> tuple[Round, ...]:
    """The rounds in the ledger, of which the last must be final; none without a ledger."""
    if not home.store.exists():
        return ()
    with home.open_ledger(f"{network.config.name}/{network.config.consortium}") as ledger:
        if not ledger.size:
            return ()
        book = Book(ledger, home.published)
        state, cosigned = book.state, book.cosigned_end
    if state.phase is Phase.FINAL and not cosigned:
        raise UsageError(
            f"the end of round {state.manifest.round} cosigned by a quorum",
            got="fewer cosignatures",
            do="ask owners to connect, then: patronage operator round DIR --resume",
        )
    if state.phase is not Phase.FINAL:
        raise UsageError(
            f"round {state.manifest.round} to be final",
            got=f"the phase {state.phase.value}",
            do="finish it first: patronage operator round DIR --resume",
        )
    return book.rounds
