"""Draw up the manifest of a round: the choices of the operator, and what follows from model and owners."""

from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

from pydantic import ValidationError

from patronage_protocol.canonical import Digest, first_problem
from patronage_protocol.errors import UsageError
from patronage_protocol.held_out import HeldOutSets
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger.trust import quorum_size
from patronage_protocol.manifest import (
    MAX_WITNESSES,
    Deadlines,
    DevelopmentTerms,
    LoraTerms,
    Manifest,
    Party,
    SlicesTerms,
    WitnessTerms,
)
from patronage_protocol.policy import BaseModel, lora_groups
from patronage_protocol.rounds import Round
from patronage_server.starting import next_start
from patronage_server.terms import RoundTerms

__all__ = ["draw_up", "with_current_keys"]

SOFTWARE = ("patronage", "torch", "transformers", "peft", "trl")


def draw_up(
    terms: RoundTerms,
    *,
    consortium: str,
    number: int,
    seed: Digest,
    operator: Party,
    owners: Sequence[Party],
    base: BaseModel,
    held_out: HeldOutSets,
    now: int,
    history: Sequence[Round] = (),
    development: DevelopmentTerms | None = None,
) -> Manifest:
    """The manifest of a round that opens `now` (Unix seconds), after the rounds of `history`.

    Raises:
        UsageError: the base model has none of the target modules or others than the start, or two parties
            share a name or key.
    """
    accept = now + terms.seconds.accept
    commit = accept + terms.seconds.commit
    reveal = commit + terms.seconds.witness + terms.seconds.reveal
    lora = LoraTerms(
        rank=terms.lora.rank,
        alpha=terms.lora.alpha,
        init_seed=terms.lora.init_seed,
        groups=lora_groups(base.model, terms.lora.target_modules),
    )
    fields = {
        "schema_version": 1,
        "consortium": consortium,
        "round": number,
        "seed": seed,
        "operator": operator,
        "owners": tuple(sorted(owners, key=lambda owner: owner.name)),
        "min_players": terms.min_players,
        "base_model": base.terms(),
        "start": next_start(history, lora) if terms.start == "consortium" else None,
        "lora": lora,
        "dpo": terms.dpo,
        "intake": terms.intake,
        "held_out": held_out.commitment,
        "slices": SlicesTerms(most_percent=terms.slices.most_percent, of=held_out.slices),
        "development": development,
        "game": terms.game,
        "interval": terms.interval,
        "payout": terms.payout,
        "deadlines": Deadlines(accept=accept, commit=commit, reveal=reveal),
        "witness": _witness(terms, owners),
        "dispute": terms.dispute,
        "versions": _versions(),
    }
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise UsageError(
            "terms and parties that make a manifest", got=first_problem(error), do="mend it and try again"
        ) from error


def with_current_keys(parties: Iterable[Party], history: Sequence[Round]) -> tuple[Party, ...]:
    """The same parties with the keys that the ledger has for them.

    Raises:
        UsageError: the key of one was revoked, and it has not registered another.
    """
    if not history:
        return tuple(parties)
    keys, found = history[-1].keys, []
    for party in parties:
        current = keys.current(party.name)
        if current is None and keys.retired(PublicKey.from_base64(party.key).keyid):
            raise UsageError(
                f"a key of {party.name} that counts",
                got="one that was rotated away or revoked",
                do=f"register {party.name} with a new key, or leave it out: remove owners/{party.name}.json",
            )
        found.append(Party(name=party.name, key=current.text) if current else party)
    return tuple(found)


def _witness(terms: RoundTerms, owners: Sequence[Party]) -> WitnessTerms:
    names = tuple(sorted(terms.witness.owners or (owner.name for owner in owners)))
    if len(names) > MAX_WITNESSES:
        raise UsageError(
            f"at most {MAX_WITNESSES} witnesses",
            got=str(len(names)),
            do="name some of the owners in terms.toml, under [witness]",
        )
    chosen = terms.witness.faulty
    faulty = (len(names) - 1) // 3 if chosen is None else chosen
    return WitnessTerms(
        owners=names, faulty=faulty, quorum=quorum_size(len(names), faulty), seconds=terms.seconds.witness
    )


def _versions() -> dict[str, str]:
    versions = {}
    for package in SOFTWARE:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions
