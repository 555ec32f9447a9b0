"""Ledgers of whole rounds, made through the protocol's own interface and published as folders."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from patronage_protocol.canonical import sha256
from patronage_protocol.entries import (
    Aborted,
    Accepted,
    AnyEntry,
    Closed,
    Committed,
    Declined,
    Evaluated,
    Finished,
    Forfeited,
    Judged,
    Match,
    Opened,
    Revealed,
    Valued,
    Witnessed,
    commitments_digest,
)
from patronage_protocol.envelopes import sign_detached
from patronage_protocol.evidence import (
    CoalitionEvidence,
    Evidence,
    EvidenceHeader,
    MarginEvidence,
    PoolEvidence,
    PoolHeader,
    slice_columns,
)
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.manifest import (
    MANIFEST_TYPE,
    Deadlines,
    HeldOutTerms,
    IntervalTerms,
    Manifest,
    ObjectiveTerms,
    PoolTerms,
    RewardGameTerms,
    SlicesTerms,
    SliceTerms,
)
from patronage_protocol.messages import (
    Acceptance,
    Commitment,
    Refusal,
    Reveal,
    Statement,
    commitment,
    sign_statement,
)
from patronage_protocol.rounds import Phase, Round, Standing, follow
from patronage_protocol.shares import compute_shares
from patronage_protocol.strict import base64_text
from patronage_protocol.valuation.pools import CandidatePools

NOW = 1_800_000_000
ACCEPT_WITHIN = 120
PHASES = tuple(Phase)
SKILLS = ("brevity", "format", "politeness", "refusal")


@dataclass(frozen=True)
class Quality:
    """What an owner does in a round.

    `skill` is its mean margin by label, `noise` the spread over pairs. `fate` is decline, silent, copy, or
    empty for an owner that plays.
    """

    skill: tuple[float, ...] = (0.4, 0.3, 0.5, 0.2)
    noise: float = 0.8
    fate: str = ""
    norm: float = 3.0
    cosine: float = 0.12


@dataclass(frozen=True)
class Scenario:
    """A round to be played: owners, held-out pairs, where it stops, and what differs in the manifest.

    `said` takes the place of every reason that somebody gives.
    """

    owners: Mapping[str, Quality]
    pairs: int = 240
    until: Phase = Phase.FINAL
    labels: tuple[str, ...] = SKILLS
    said: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


class Play:
    """Plays a scenario; the entries and blobs that it makes are the ledger's."""

    def __init__(
        self,
        scenario: Scenario,
        manifest: Manifest,
        keys: Callable[[str], PrivateKey],
        cosigned_head: Callable[..., SignedCheckpoint],
        history: tuple[Round, ...] = (),
    ) -> None:
        self.scenario, self.manifest, self.keys = scenario, manifest, keys
        self.cosigned_head = cosigned_head
        self.now = manifest.deadlines.accept - ACCEPT_WITHIN
        self.blobs: dict[str, bytes] = {}
        self.entries: list[AnyEntry] = []
        self.rounds = history
        self.evidence: Evidence

    @property
    def state(self) -> Round:
        return self.rounds[-1]

    def play(self) -> None:
        """All steps up to the phase in which the scenario stops."""
        self._open()
        steps = (
            self._gather,
            self._witness,
            self._reveal,
            self._judge,
            self._evaluate,
            self._value,
            self._settle,
            self._finish,
        )
        for phase, step in zip(PHASES, steps, strict=False):
            if phase is self.scenario.until:
                return
            if self.state.phase is phase:
                step()

    def end(self) -> None:
        """Record the cosigned end, as the next round does when it opens."""
        self._witness()

    def _take(self, entry: AnyEntry) -> None:
        self.rounds = follow(self.rounds, entry, self.blobs.__getitem__)
        self.entries.append(entry)

    def _put(self, data: bytes) -> str:
        self.blobs[sha256(data)] = data
        return sha256(data)

    def _after(self, seconds: int) -> int:
        self.now += seconds
        return self.now

    def _say(self, owner: str, kind: type[Statement], **fields: Any) -> dict[str, Any]:
        header = {
            "consortium": self.manifest.consortium,
            "round": self.manifest.round,
            "manifest": self.manifest.digest,
            "author": owner,
        }
        statement = sign_statement(kind.model_validate({**header, **fields}), self.keys(owner))
        return {"time": self.now, "owner": owner, "statement": statement}

    def _said(self, reason: str) -> str:
        return self.scenario.said or reason

    def _open(self) -> None:
        data = self.manifest.encode()
        signature = base64_text(sign_detached(MANIFEST_TYPE, data, self.keys("operator")))
        self._take(Opened(time=self.now, manifest=self._put(data), signature=signature))

    def _gather(self) -> None:
        silent = [owner for owner, quality in self.scenario.owners.items() if quality.fate == "silent"]
        for place, (owner, quality) in enumerate(self.scenario.owners.items()):
            self._after(2 + place % 3)
            if quality.fate == "decline":
                self._take(
                    Declined(
                        **self._say(
                            owner,
                            Refusal,
                            reason=self._said("the base model is not licensed to us"),
                        )
                    )
                )
            else:
                self._take(Accepted(**self._say(owner, Acceptance)))
        for place, owner in enumerate(self.state.owners(Standing.ACCEPTED)):
            if owner in silent:
                continue
            self._after(6 + place % 5)
            opening = {"salt": sha256(f"salt {owner}".encode()), "adapter": sha256(owner.encode())}
            sealed = commitment(
                consortium=self.manifest.consortium, round_number=self.manifest.round, owner=owner, **opening
            )
            self._take(Committed(**self._say(owner, Commitment, commitment=sealed)))
        for owner in silent:
            self._after(max(0, self.manifest.deadlines.commit + 1 - self.now))
            self._take(
                Forfeited(time=self.now, owner=owner, reason=self._said("no commitment by the deadline"))
            )
        made = self.state.commitments
        self._take(Closed(time=self._after(2), count=len(made), commitments=commitments_digest(made)))

    def _witness(self) -> None:
        note = self.cosigned_head(self.state, self.keys).encode().decode()
        self._take(Witnessed(time=self._after(1), checkpoint=note))

    def _reveal(self) -> None:
        for place, owner in enumerate(self.state.owners(Standing.COMMITTED)):
            self._after(1 + place % 2)
            opening = {"salt": sha256(f"salt {owner}".encode()), "adapter": sha256(owner.encode())}
            self._take(Revealed(**self._say(owner, Reveal, size=4096, pairs=120 + 40 * place, **opening)))

    def _judge(self) -> None:
        earlier: list[str] = []
        for owner in tuple(self.state.reveals):
            quality = self.scenario.owners[owner]
            copied = quality.fate == "copy"
            cosine = 0.9996 if copied else quality.cosine
            reason = self._said(f"a copy of {earlier[0]}") if copied else ""
            nearest = Match(owner=earlier[0], cosine=cosine) if earlier else None
            verdict = Judged(
                time=self._after(1),
                owner=owner,
                accepted=not copied,
                reason=reason,
                norm=quality.norm,
                nearest=nearest,
            )
            self._take(verdict)
            earlier.append(owner)

    def _margins(self) -> NDArray[np.float64]:
        random = np.random.default_rng(20_270_115)
        sources = np.arange(self.scenario.pairs) % len(self.scenario.labels)
        hard = random.normal(size=self.scenario.pairs)
        rows = []
        for player in self.state.players:
            quality = self.scenario.owners[player]
            skill = np.array([quality.skill[s % len(quality.skill)] for s in sources])
            rows.append(skill - 0.15 * hard * skill + quality.noise * random.normal(size=self.scenario.pairs))
        return np.array(rows)

    def _evaluate(self) -> None:
        players = self.state.players
        if len(players) < self.manifest.min_players:
            self._take(Aborted(time=self._after(3), reason="players", count=len(players)))
            return
        if isinstance(self.manifest.game, RewardGameTerms):
            self.evidence = self._pools(self.manifest.game)
        else:
            self.evidence = self._margin_evidence()
        self._take(Evaluated(time=self._after(21), margins=self._put(self.evidence.encode())))

    def _pools(self, game: RewardGameTerms) -> PoolEvidence:
        """Candidates of which the first objective likes the even ones and the second the early ones."""
        players, prompts, size = self.state.players, self.scenario.pairs // 2, game.pool.candidates
        random = np.random.default_rng(20_270_116)
        merits = np.stack([np.arange(size) % 2 - 0.5, 0.5 - np.arange(size) / size])
        skills = np.array([self.scenario.owners[player].skill[:2] for player in players])
        ratios = (skills @ merits)[:, None] + 0.2 * random.normal(size=(len(players), prompts, size))
        header = PoolHeader(
            players=players,
            adapters=tuple(self.state.reveals[player].adapter for player in players),
            candidates="0d" * 32,
            sources=tuple(prompt % len(self.scenario.labels) for prompt in range(prompts)),
            labels=self.scenario.labels,
            size=size,
            from_base=game.pool.from_base,
            objectives=tuple(objective.name for objective in game.objectives),
            scale_bits=game.scale_bits,
        )
        rewards = np.repeat(merits[: len(game.objectives), None], prompts, axis=1)
        pools = CandidatePools(ratios, ratios.sum(axis=0), game.pool.from_base, rewards)
        return PoolEvidence.from_pools(header, pools)

    def _margin_evidence(self) -> MarginEvidence:
        """Margins of the players; where adapters are merged those of all coalitions, short of the sums."""
        players = self.state.players
        header = EvidenceHeader(
            players=players,
            adapters=tuple(self.state.reveals[player].adapter for player in players),
            clusters=tuple(pair // 2 for pair in range(self.scenario.pairs)),
            sources=tuple(pair % len(self.scenario.labels) for pair in range(self.scenario.pairs)),
            labels=self.scenario.labels,
            slices=slice_columns(self.manifest),
            scale_bits=self.manifest.game.scale_bits,
        )
        margins = self._margins()
        if self.manifest.game.composition == "merged":
            members = np.arange(1, 1 << len(players))[:, None] >> np.arange(len(players)) & 1
            return CoalitionEvidence.from_margins(header, np.tanh(members @ margins))
        return MarginEvidence.from_margins(header, margins)

    def _value(self) -> None:
        shares = compute_shares(self.evidence, self.manifest)
        self._take(Valued(time=self._after(1), shares=self._put(shares.encode())))

    def _settle(self) -> None:
        while (due := self.state.due(self.now)) is not None:
            self._take(due)

    def _finish(self) -> None:
        adapter = None if self.state.shares is None else sha256(b"the consortium's adapter")
        self._take(Finished(time=self._after(4), adapter=adapter))


ORCHARD = {
    "ash": Quality((0.9, 0.2, 0.7, 0.1), norm=4.1),
    "birch": Quality((0.1, 0.8, 0.2, 0.6), norm=3.4, cosine=0.31),
    "cedar": Quality((0.06, 0.02, 0.05, 0.03), noise=0.5, norm=0.9, cosine=0.08),
    "dogwood": Quality((-0.6, -0.3, -0.7, -0.2), norm=3.9, cosine=-0.42),
}

REWARDS = RewardGameTerms(
    composition="sum",
    utility="reward",
    scale_bits=16,
    pool=PoolTerms(candidates=8, from_base=4, max_new_tokens=16, seed=0, min_effective=1.5),
    objectives=(
        ObjectiveTerms(name="helpful", reward="model:judge", weight=3, scorer="0e" * 32),
        ObjectiveTerms(name="harmless", reward="python:rewards:harmless", weight=1, scorer="0f" * 32),
    ),
)

SLICES = SlicesTerms(
    most_percent=25,
    of=(
        SliceTerms(owner="ash", root="1a" * 32, pairs=40, prompts=20),
        SliceTerms(owner="dogwood", root="1d" * 32, pairs=20, prompts=10),
    ),
)

SCENARIOS = {
    "slices": Scenario(
        ORCHARD,
        changes={"held_out": HeldOutTerms(root="0c" * 32, pairs=180, prompts=90), "slices": SLICES},
    ),
    "rewards": Scenario(ORCHARD, changes={"game": REWARDS}),
    "healthy": Scenario(
        {
            **ORCHARD,
            "elm": Quality(fate="copy", norm=4.1),
            "fir": Quality(fate="decline"),
            "gum": Quality(fate="silent"),
        }
    ),
    "underpowered": Scenario(
        {name: replace(quality, noise=3.0) for name, quality in ORCHARD.items()}, pairs=16
    ),
    "no-gain": Scenario({"ash": ORCHARD["dogwood"], "birch": Quality((-0.4,) * 4)}),
    "aborted": Scenario(
        {"ash": ORCHARD["ash"], "elm": Quality(fate="copy"), "fir": Quality(fate="decline")},
        changes={"min_players": 2},
    ),
    "open": Scenario(ORCHARD, until=Phase.OPEN),
    "scoring": Scenario(ORCHARD, until=Phase.SCORING),
    "valuing": Scenario(ORCHARD, until=Phase.VALUING),
    "paying": Scenario(ORCHARD, until=Phase.PAYING),
    "seven": Scenario(
        {
            name: Quality(tuple(np.roll((0.7, 0.2, 0.1, 0.3), place)), cosine=0.1 * place)
            for place, name in enumerate(("ash", "birch", "cedar", "elm", "fir", "hazel"))
        }
        | {"gum": ORCHARD["dogwood"]}
    ),
    "crowd": Scenario(
        {
            f"owner-{number:02}": Quality(
                tuple(np.roll((0.5, 0.1, -0.1, 0.2), number)) if number % 8 else (-0.3,) * 4,
                noise=0.5,
                norm=1 + number % 7,
            )
            for number in range(24)
        },
        pairs=600,
    ),
}


@pytest.fixture
def scenarios() -> Mapping[str, Scenario]:
    return SCENARIOS


@pytest.fixture
def ledger_of(
    tmp_path: Path,
    manifest_of: Callable[..., Manifest],
    key_of: Callable[[str], PrivateKey],
    cosigned_head: Callable[..., SignedCheckpoint],
) -> Callable[..., Path]:
    """Plays rounds, one after the other, and publishes them to a folder `ledger`."""

    def make(*rounds: Scenario) -> Path:
        return publish_rounds(rounds, tmp_path / "run", manifest_of, key_of, cosigned_head)

    return make


@pytest.fixture
def published(
    tmp_path: Path,
    key_of: Callable[[str], PrivateKey],
    cosigned_head: Callable[..., SignedCheckpoint],
) -> Callable[..., Path]:
    """Publishes rounds that a test has played itself."""

    def make(*plays: Any) -> Path:
        return publish_plays(plays, tmp_path / "run", key_of, cosigned_head)

    return make


def publish_rounds(
    scenarios: Sequence[Scenario],
    folder: Path,
    manifest_of: Callable[..., Manifest],
    key_of: Callable[[str], PrivateKey],
    cosigned_head: Callable[..., SignedCheckpoint],
) -> Path:
    plays: list[Play] = []
    for number, scenario in enumerate(scenarios):
        start = NOW + 3600 * number
        fields = {
            "round": number + 1,
            "held_out": HeldOutTerms(root="0c" * 32, pairs=scenario.pairs, prompts=scenario.pairs // 2),
            "deadlines": Deadlines(accept=start + ACCEPT_WITHIN, commit=start + 300, reveal=start + 400),
            "interval": IntervalTerms(level=0.95, replicates=400, seed=1),
            **scenario.changes,
        }
        manifest = manifest_of(*scenario.owners, **fields)
        if plays:
            plays[-1].end()
        plays.append(Play(scenario, manifest, key_of, cosigned_head, plays[-1].rounds if plays else ()))
        plays[-1].play()
    return publish_plays(plays, folder, key_of, cosigned_head)


def publish_plays(
    plays: Sequence[Any],
    folder: Path,
    key_of: Callable[[str], PrivateKey],
    cosigned_head: Callable[..., SignedCheckpoint],
) -> Path:
    """The entries and blobs of rounds, played here or by hand, as a published ledger cosigned at its end."""
    folder.mkdir(parents=True)
    with Ledger.create(folder / "ledger.sqlite", plays[0].manifest.origin, key_of("operator")) as ledger:
        for play in plays:
            for data in play.blobs.values():
                ledger.put_blob(data)
            ledger.append([entry.encode() for entry in play.entries])
        head = ledger.checkpoint.checkpoint
        ledger.add_cosignatures(head.size, cosigned_head(plays[-1].state, key_of).note.signatures[1:])
        publish(ledger, folder / "ledger")
    return folder / "ledger"
