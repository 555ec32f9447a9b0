"""Found a consortium on one machine: folders for its operator and owners, as each would have at home.

    RUN/owners/<name>/     an owner's folder (its key, pairs and rounds)
    RUN/operator/          the operator's folder (its key, terms, held-out pairs and store)
    RUN/ledger/            the published ledger
    RUN/adapter/           the consortium's adapter, a PEFT folder; adapter-2/ after round 2, and so on
    RUN/second-place/      the head that the operator signed last

Keys follow from the seed, so that a run can be repeated to the byte; a real owner's key is random.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from patronage_client.home import PRIVACY, WITNESS
from patronage_protocol.canonical import sha256
from patronage_protocol.envelopes import Envelope
from patronage_protocol.errors import UsageError
from patronage_protocol.files import new_folder, write_atomic
from patronage_protocol.held_out import HeldOutSet, HeldOutSets
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.witness import make_memory
from patronage_protocol.manifest import Manifest, Party
from patronage_protocol.pair_files import write_pairs
from patronage_protocol.policy import BaseModel
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.slices import Contribution, check_apart
from patronage_server.book import Book
from patronage_server.drafting import draw_up, with_current_keys
from patronage_server.home import OperatorHome
from patronage_server.rewards import with_scorers
from patronage_server.terms import RoundTerms

__all__ = ["Consortium", "Plan", "found", "open_next"]

OPERATOR = "operator"


@dataclass(frozen=True)
class Plan:
    """What a simulated consortium is made of.

    Attributes:
        name: of the consortium.
        seed: of keys, the held-out salts and the tie-break.
        base_model: hub id, folder, GGUF file or `tiny`.
        terms: the operator's choices for the round.
        owners: owner to its pairs.
        held_out: the pairs on which coalitions are scored.
        precision: of the base model; the manifest fixes it for everybody.
        slices: owner to the held-out pairs that it contributes.
        privacy: epsilon and delta of the owners who train with differential privacy.
        device, threads, cache: how every party computes, as in owner.toml.
    """

    name: str
    seed: int
    base_model: str
    terms: RoundTerms
    owners: Mapping[str, Sequence[PreferencePair]]
    held_out: Sequence[PreferencePair]
    slices: Mapping[str, Sequence[PreferencePair]] = field(default_factory=dict)
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    device: str = "auto"
    threads: int = 0
    cache: str = ""
    privacy: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Consortium:
    """A founded consortium: where everybody's folder is."""

    folder: Path
    manifest: Manifest

    @property
    def operator(self) -> Path:
        """The operator's folder."""
        return self.folder / OPERATOR

    @property
    def ledger(self) -> Path:
        """The published ledger."""
        return self.folder / "ledger"

    @property
    def owners(self) -> tuple[Path, ...]:
        """The owners' folders, sorted by name."""
        return tuple(self.folder / "owners" / owner.name for owner in self.manifest.owners)


def found(folder: Path, plan: Plan, base: BaseModel, *, now: int) -> Consortium:
    """Write the folders of a consortium whose first round opens `now` (Unix seconds).

    Raises:
        UsageError: the folder is not empty, there are fewer than two owners, or two have one key.
        UnavailableError: a file cannot be written.
    """
    if len(plan.owners) < 2:
        raise UsageError(
            "at least two owners",
            got=str(len(plan.owners)),
            do="add a file for each further owner; shares of one owner alone need no protocol",
        )
    terms = with_scorers(plan.terms, plan.held_out, device=str(base.device))
    new_folder(folder)
    keys = {name: _key(plan.seed, name) for name in (OPERATOR, *plan.owners)}
    secret = _derive(plan.seed, "held-out")
    slices = _slices(plan)
    manifest = draw_up(
        terms,
        consortium=plan.name,
        number=1,
        seed=sha256(_derive(plan.seed, "round")),
        operator=Party(name=OPERATOR, key=keys[OPERATOR].public.text),
        owners=[Party(name=name, key=keys[name].public.text) for name in plan.owners],
        base=base,
        held_out=HeldOutSets(
            HeldOutSet(tuple(plan.held_out), secret),
            {owner: part.held_out for owner, part in slices.items()},
        ),
        now=now,
    )
    for name, pairs in plan.owners.items():
        _found_owner(folder / "owners" / name, name, pairs, plan, keys)
    _found_operator(folder / OPERATOR, manifest, secret, plan, keys[OPERATOR])
    for owner, part in slices.items():
        _hand_over(folder, part.seal(keys[owner]), owner)
    return Consortium(folder, manifest)


def open_next(consortium: Consortium, plan: Plan, base: BaseModel, *, now: int) -> Consortium:
    """Draw up the next round of a consortium whose last round is final, with the same owners and pairs.

    Raises:
        UsageError: its terms cannot follow, such as other LoRA modules than those of the start.
    """
    home = OperatorHome.load(consortium.operator)
    last = consortium.manifest
    with home.open_ledger(last.origin) as ledger:
        history = Book(ledger, home.published).rounds
    manifest = draw_up(
        with_scorers(plan.terms, plan.held_out, device=str(base.device)),
        consortium=plan.name,
        number=last.round + 1,
        seed=sha256(_derive(plan.seed, f"round {last.round + 1}")),
        operator=Party(name=OPERATOR, key=home.key.public.text),
        owners=with_current_keys(last.owners, history),
        base=base,
        held_out=home.held_out_sets(owner.name for owner in last.owners),
        now=max(now, history[-1].time),
        history=history,
    )
    write_atomic(consortium.operator / "manifest.json", manifest.encode())
    return Consortium(consortium.folder, manifest)


def _found_owner(
    folder: Path, name: str, pairs: Sequence[PreferencePair], plan: Plan, keys: Mapping[str, PrivateKey]
) -> None:
    folder.mkdir(parents=True)
    keys[name].save(folder / "key.pem", None)
    make_memory(folder / WITNESS)
    write_pairs(folder / "pairs.jsonl", pairs)
    settings = {
        "name": name,
        "data": "pairs.jsonl",
        "operator_key": keys[OPERATOR].public.text,
        "accept": "any",
        **_computing(plan),
    }
    _write_toml(folder / "owner.toml", settings)
    if name in plan.privacy:
        epsilon, delta = plan.privacy[name]
        _write_toml(folder / PRIVACY, {"epsilon": epsilon, "delta": delta})


def _slices(plan: Plan) -> dict[str, Contribution]:
    """What owners contribute, as the operator takes it: each slice apart from all pairs before it."""
    others: dict[str, Sequence[PreferencePair]] = {"the operator": plan.held_out}
    slices = {}
    for owner, pairs in sorted(plan.slices.items()):
        check_apart(owner, pairs, others)
        others[f"the slice of {owner}"] = pairs
        slices[owner] = Contribution.draw_up(owner, pairs, _derive(plan.seed, f"slice of {owner}"))
    return slices


def _hand_over(folder: Path, slice_: Envelope, owner: str) -> None:
    (folder / OPERATOR / "slices").mkdir(mode=0o700, exist_ok=True)
    for path in (folder / "owners" / owner / "slice.json", folder / OPERATOR / "slices" / f"{owner}.json"):
        write_atomic(path, slice_.encode(), mode=0o600)


def _found_operator(folder: Path, manifest: Manifest, secret: bytes, plan: Plan, key: PrivateKey) -> None:
    folder.mkdir()
    key.save(folder / "key.pem", None)
    write_atomic(folder / "held-out.secret", secret, mode=0o600)
    write_pairs(folder / "held-out.jsonl", plan.held_out)
    write_atomic(folder / "manifest.json", manifest.encode())
    (folder.parent / "second-place").mkdir()
    settings = {
        "published": "../ledger",
        "exported": "../adapter",
        "second_place": "../second-place/head",
        **_computing(plan),
    }
    _write_toml(folder / "operator.toml", settings)


def _computing(plan: Plan) -> dict[str, str | int]:
    return {
        "base_model": plan.base_model,
        "device": plan.device,
        "threads": plan.threads,
        "cache": plan.cache,
    }


def _write_toml(path: Path, settings: Mapping[str, str | int | float]) -> None:
    """Strings and finite numbers alone, whose JSON spelling is also TOML."""
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())
    write_atomic(path, "".join(lines).encode())


def _key(seed: int, name: str) -> PrivateKey:
    return PrivateKey.from_seed(_derive(seed, f"key of {name}"))


def _derive(seed: int, purpose: str) -> bytes:
    return hashlib.sha256(f"patronage simulation\n{seed}\n{purpose}\n".encode()).digest()
