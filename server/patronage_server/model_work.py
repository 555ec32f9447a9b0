"""The operator's work with the base model: score the players on the held-out pairs, export their sum.

Everything else of a round needs no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.adapters import Tensors, decode
from patronage_protocol.canonical import sha256
from patronage_protocol.errors import UsageError
from patronage_protocol.evidence import (
    CoalitionEvidence,
    Evidence,
    EvidenceHeader,
    MarginEvidence,
    PoolEvidence,
    PoolHeader,
    slice_columns,
)
from patronage_protocol.files import write_atomic
from patronage_protocol.manifest import Manifest, RewardGameTerms
from patronage_protocol.policy import (
    BaseModel,
    check_same_base,
    progress_bar,
    shared_base_model,
    started,
    tokenize_pairs,
    torch_threads,
)
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.rounds import Round
from patronage_protocol.valuation import all_coalitions
from patronage_server.candidates import draw_candidates, score_candidates, with_distinct_prompts
from patronage_server.composition import AdapterSet, WeightArithmetic
from patronage_server.evaluation import score_adapters
from patronage_server.export import concatenate, write_adapter
from patronage_server.home import Engine, OperatorHome
from patronage_server.ray_scoring import Scoring, score_on_ray
from patronage_server.rewards import RewardError, load_reward
from patronage_server.starting import exported_lora, start_bytes

__all__ = ["evaluate_round", "export_round"]


def evaluate_round(
    home: OperatorHome, state: Round, adapters: Mapping[str, Tensors], *, engine: Engine = "local"
) -> Evidence:
    """The margins of every player, or of every coalition, on the held-out pairs; or candidate pools.

    Args:
        home: the operator's folder, which holds the held-out pairs.
        state: the round, ready to be scored.
        adapters: player to tensors.
        engine: where the passes over held-out pairs are done; the margins are the same.

    Raises:
        LocalProtocolError: the base model or the held-out pairs are not those of the manifest.
        UsageError: a margin, log-ratio or reward is not finite or out of range, or a reward fails; or Ray is
            asked to score generations or merged coalitions.
        UnavailableError: the device has not enough memory, or the Ray cluster is not there.
    """
    manifest = state.manifest
    pairs = home.committed_pairs(manifest).pairs
    players = {player: adapters[player] for player in state.players}
    if isinstance(manifest.game, RewardGameTerms):
        if engine == "ray":
            raise _not_on_ray("a game on generations")
        with torch_threads(home.config.threads):
            return _evaluate_rewards(home, state, _base(home, manifest), players, pairs)
    if manifest.game.composition == "merged":
        if engine == "ray":
            raise _not_on_ray("merged coalitions")
        margins = _score_merged(home, manifest, players, pairs)
        return CoalitionEvidence.from_margins(_header(state, pairs), margins)
    score = _score_on_ray if engine == "ray" else _score_here
    return MarginEvidence.from_margins(_header(state, pairs), score(home, manifest, players, pairs))


def export_round(home: OperatorHome, state: Round, adapters: Mapping[str, Tensors]) -> str:
    """Write the sum of the start and all players' adapters as one PEFT folder; the digest of its weights."""
    manifest = state.manifest
    parts = [adapters[player] for player in state.players]
    weights = [1.0] * len(parts)
    if manifest.start is not None:
        lora = manifest.start.lora(manifest.lora)
        data = start_bytes(home.path, home.config, manifest)
        parts.insert(0, decode(data, lora, max_bytes=len(data)))
        weights.insert(0, lora.scaling / manifest.lora.scaling)
    written = write_adapter(
        concatenate(parts, lora=manifest.lora, weights=weights),
        lora=exported_lora(manifest, len(state.players)),
        base_model=manifest.base_model.name,
        out=home.exported(manifest.round),
    )
    return sha256(written.read_bytes())


def _not_on_ray(what: str) -> UsageError:
    return UsageError(
        f"the engine local for {what}",
        got="the engine ray, which spreads single adapters' passes over held-out pairs",
        do="go on with: patronage operator round DIR --resume --engine local",
    )


def _base(home: OperatorHome, manifest: Manifest) -> BaseModel:
    """What the round starts from: its base model, with the consortium's adapter in place in a later round."""
    base = shared_base_model(
        home.config.base_model,
        precision=manifest.base_model.precision,
        device=home.config.device,
        cache=home.cache,
    )
    check_same_base(manifest.base_model, base)
    if manifest.start is None:
        return base
    return started(base, manifest, start_bytes(home.path, home.config, manifest))


def _score_merged(
    home: OperatorHome,
    manifest: Manifest,
    adapters: Mapping[str, Tensors],
    pairs: Sequence[PreferencePair],
) -> NDArray[np.float64]:
    """The margins (2^n - 1, M) of all coalitions with a member, in bitmask order."""
    base, beta = _base(home, manifest), manifest.dpo.beta
    with torch_threads(home.config.threads), progress_bar("scoring") as progress:
        tokens = tokenize_pairs(base, pairs, max_length=manifest.dpo.max_length)
        scorer = WeightArithmetic(AdapterSet(base, manifest.lora, adapters)).scorer(tokens)
        return scorer.margins(all_coalitions(len(adapters))[1:], beta, progress)


def _score_here(
    home: OperatorHome,
    manifest: Manifest,
    adapters: Mapping[str, Tensors],
    pairs: Sequence[PreferencePair],
) -> NDArray[np.float64]:
    base = _base(home, manifest)
    with torch_threads(home.config.threads), progress_bar("scoring") as progress:
        return score_adapters(
            base,
            adapters,
            tokenize_pairs(base, pairs, max_length=manifest.dpo.max_length),
            lora=manifest.lora,
            beta=manifest.dpo.beta,
            progress=progress,
        )


def _score_on_ray(
    home: OperatorHome,
    manifest: Manifest,
    adapters: Mapping[str, Tensors],
    pairs: Sequence[PreferencePair],
) -> NDArray[np.float64]:
    scoring = Scoring(
        source=home.config.base_model,
        device=home.config.device,
        cache=str(home.cache.absolute()) if home.cache else "",
        threads=home.config.threads,
        manifest=manifest,
        start=b"" if manifest.start is None else start_bytes(home.path, home.config, manifest),
        pairs=tuple(pairs),
    )
    with progress_bar("scoring") as progress:
        return score_on_ray(
            scoring, adapters, beta=manifest.dpo.beta, address=home.config.ray_address, progress=progress
        )


def _evaluate_rewards(
    home: OperatorHome,
    state: Round,
    base: BaseModel,
    players: Mapping[str, Tensors],
    pairs: Sequence[PreferencePair],
) -> PoolEvidence:
    manifest, game = state.manifest, state.manifest.game
    assert isinstance(game, RewardGameTerms), "the caller has looked"
    rewards = [load_reward(objective, device=str(base.device)) for objective in game.objectives]
    prompts = with_distinct_prompts(pairs)
    with ExitStack() as bars:

        def progress(label: str) -> Callable[[int, int], None]:
            return bars.enter_context(progress_bar(label))

        candidates = draw_candidates(
            base, list(players.values()), prompts, lora=manifest.lora, terms=game.pool, progress=progress
        )
        listed = candidates.encode(home.held_out_secret)
        write_atomic(home.candidates(manifest.round), listed)
        try:
            pools = score_candidates(
                base, players, candidates, rewards, lora=manifest.lora, terms=game.pool, progress=progress
            )
        except RewardError as error:
            raise _stopped_at_scoring(error, home, manifest) from error
    labels = sorted({pair.source for pair in prompts})
    header = PoolHeader(
        players=state.players,
        adapters=tuple(state.reveals[player].adapter for player in state.players),
        candidates=sha256(listed),
        sources=tuple(labels.index(pair.source) for pair in prompts),
        labels=tuple(labels),
        size=game.pool.candidates,
        from_base=game.pool.from_base,
        objectives=tuple(objective.name for objective in game.objectives),
        scale_bits=game.scale_bits,
    )
    return PoolEvidence.from_pools(header, pools)


def _stopped_at_scoring(error: RewardError, home: OperatorHome, manifest: Manifest) -> RewardError:
    """What to do now that owners have revealed: the manifest pins the reward, so it cannot be changed."""
    return RewardError(
        error.expected,
        got=error.got,
        do=(
            f"the answers are in {home.candidates(manifest.round)}; the round waits at scoring: put right "
            "what the reward needs (memory, a service, a file) and go on with: patronage operator round DIR "
            "--resume; or, since the manifest pins the reward, refund with: patronage operator abort DIR"
        ),
        where=error.where,
    )


def _header(state: Round, pairs: Sequence[PreferencePair]) -> EvidenceHeader:
    clusters: dict[str, int] = {}
    labels = sorted({pair.source for pair in pairs})
    return EvidenceHeader(
        players=state.players,
        adapters=tuple(state.reveals[player].adapter for player in state.players),
        clusters=tuple(clusters.setdefault(pair.prompt_digest, len(clusters)) for pair in pairs),
        sources=tuple(labels.index(pair.source) for pair in pairs),
        labels=tuple(labels),
        slices=slice_columns(state.manifest),
        scale_bits=state.manifest.game.scale_bits,
    )
