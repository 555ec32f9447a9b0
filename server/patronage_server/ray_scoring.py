"""Scoring over the machines of a Ray cluster: the n + 1 passes know nothing of each other.

Each worker loads the base model once, checks that it is the round's, puts the consortium's adapter in place
that a later round starts from, and scores one adapter after another; arithmetic on the results happens here,
in the order in which one machine does it. So the margins are those of one machine, to the byte, where the
workers compute as it does: the same kind of device and as many threads.

A worker that dies costs the passes that it was at; the others do them. This is the one module that knows Ray,
which need not be installed. A Ray cluster runs whatever reaches its ports: keep it in a network of its own,
or behind Ray's tokens (`RAY_AUTH_MODE=token`).
"""

import importlib
import importlib.util
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patronage_protocol.adapters import Tensors
from patronage_protocol.errors import MissingExtraError, PatronageError, UnavailableError, UsageError
from patronage_protocol.manifest import Manifest
from patronage_protocol.policy import (
    BaseModel,
    TokenizedPair,
    adapted,
    check_same_base,
    completion_logprobs,
    shared_base_model,
    started,
    tokenize_pairs,
    torch_threads,
)
from patronage_protocol.preferences import PreferencePair
from patronage_server.evaluation import margins_of, scoring_problem

__all__ = ["Scoring", "require_ray", "score_on_ray"]

STARTS = 3
"""So often is a cluster on this machine tried to start."""

Logprobs = NDArray[np.float64]
"""Shape (M, 2): of the chosen and the rejected completion of each pair, nats."""


@dataclass(frozen=True)
class Scoring:
    """What a worker must know.

    Attributes:
        source: hub id, folder, GGUF file or `tiny`, as the worker's machine finds it.
        device: `auto` is a GPU where the cluster has any.
        cache: folder for de-quantised models; empty for none.
        threads: CPU threads of each worker; 0 is as many as this process uses.
        manifest: the terms of the round.
        start: the bytes of the adapter that the round starts from; empty in a first round.
        pairs: M held-out pairs.
    """

    source: str
    device: str
    cache: str
    threads: int
    manifest: Manifest
    start: bytes
    pairs: tuple[PreferencePair, ...]


def require_ray() -> None:
    """Make sure that Ray is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", extra="ray")


def score_on_ray(
    scoring: Scoring,
    adapters: Mapping[str, Tensors],
    *,
    beta: float,
    address: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """The margin of every adapter on every pair.

    Args:
        scoring: what is the same for all adapters.
        adapters: n adapters by the name of their owner.
        beta: of the round's DPO.
        address: of a Ray cluster; empty starts one on this machine and ends it afterwards. A process that
            is part of a cluster already uses that one.
        progress: called with (passes done, passes in all).

    Returns:
        Shape (n, M), dimensionless, rows in the order of `adapters`.

    Raises:
        MissingExtraError: Ray is not installed.
        UnavailableError: the cluster is not there, or all workers died.
        LocalProtocolError: a worker finds another base model than the round's.
        UsageError: a model gives a completion no finite log-probability; names the owner.
    """
    require_ray()
    passes: dict[str | None, Tensors | None] = {None: None}
    passes.update(adapters)
    with _cluster(address) as ours:
        workers = _workers(scoring, most=len(passes), reserve=ours)
        found = _gather(workers, passes, progress)
    reference = found[None]
    return np.stack([margins_of(found[owner], reference, beta=beta) for owner in adapters])


class ScoringWorker:
    """One process of the cluster: the base model, loaded once, and one adapter at a time."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._loaded: tuple[BaseModel, tuple[TokenizedPair, ...]] | None = None

    def logprobs(self, tensors: Tensors | None) -> Logprobs | PatronageError:
        """The log-probabilities under an adapter, or under the base model alone.

        A problem is returned, since Ray wraps what is raised in an error of its own.
        """
        try:
            base, pairs = self._load()
            with (
                torch_threads(self._scoring.threads),
                adapted(base.model, self._scoring.manifest.lora) as slot,
            ):
                if tensors is not None:
                    slot.load(tensors)
                return completion_logprobs(base.model, pairs)
        except PatronageError as error:
            return error

    def _load(self) -> tuple[BaseModel, tuple[TokenizedPair, ...]]:
        if self._loaded is None:
            scoring, manifest = self._scoring, self._scoring.manifest
            base = shared_base_model(
                scoring.source,
                precision=manifest.base_model.precision,
                device=scoring.device,
                cache=Path(scoring.cache) if scoring.cache else None,
            )
            check_same_base(manifest.base_model, base)
            if manifest.start is not None:
                base = started(base, manifest, scoring.start)
            self._loaded = base, tokenize_pairs(base, scoring.pairs, max_length=manifest.dpo.max_length)
        return self._loaded


def _gather(
    workers: list[Any],
    passes: Mapping[str | None, Tensors | None],
    progress: Callable[[int, int], None] | None,
) -> dict[str | None, Logprobs]:
    """Give each worker a pass at a time; what a dying worker was at goes to another."""
    ray = _ray()

    idle, waiting = list(workers), deque(passes)
    at_work: dict[Any, tuple[Any, str | None]] = {}
    found: dict[str | None, Logprobs] = {}
    while waiting or at_work:
        while waiting and idle:
            worker, owner = idle.pop(), waiting.popleft()
            at_work[worker.logprobs.remote(passes[owner])] = worker, owner
        if not at_work:
            raise UnavailableError(
                "a worker that stays up",
                got=f"the death of all {len(workers)}",
                do="look at the memory of their machines, then go on with --resume",
            )
        ready = ray.wait(list(at_work), num_returns=1)[0][0]
        worker, owner = at_work.pop(ready)
        try:
            result = ray.get(ready)
        except ray.exceptions.RayActorError:
            waiting.appendleft(owner)
            continue
        idle.append(worker)
        found[owner] = _checked(result, owner)
        if progress is not None:
            progress(len(found), len(passes))
    return found


def _checked(result: Logprobs | PatronageError, owner: str | None) -> Logprobs:
    if not isinstance(result, PatronageError):
        return result
    if owner is None or type(result) is not UsageError:  # a DataError is about the base model
        raise result
    raise scoring_problem(result, owner)


def _workers(scoring: Scoring, *, most: int, reserve: bool) -> list[Any]:
    """As many workers as the cluster has room for, and no more than passes.

    Args:
        scoring: what they must know.
        most: the number of passes.
        reserve: whether they wait for free processors. In a cluster that this process shares with the owners
            of a simulation they do not: owners hold theirs for the whole round, and idle meanwhile.
    """
    ray = _ray()

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = 0 if scoring.device == "cpu" else int(sum(node.get("GPU", 0) for node in nodes))
    threads = scoring.threads or torch.get_num_threads()
    cores = [int(node.get("CPU", 0)) for node in nodes]
    share = 1 if gpus else min(threads, max(cores, default=0))
    if share < 1:
        raise UnavailableError(
            "a Ray cluster with processors", got="none", do="start its workers: ray start --address ..."
        )
    count = min(most, gpus or sum(core // share for core in cores))
    device = scoring.device if scoring.device == "cpu" or not gpus else "cuda"
    task = ray.put(replace(scoring, device=device, threads=threads))
    options = {"num_cpus": share, "num_gpus": 1 if gpus else 0} if reserve else {"num_cpus": 0}
    kind = ray.remote(**options, scheduling_strategy="SPREAD")(ScoringWorker)
    return [kind.remote(task) for _ in range(count)]


def _ray() -> Any:
    """The package: optional, slow to import, and untyped here so that checkers need not have it."""
    return importlib.import_module("ray")


@contextmanager
def _cluster(address: str) -> Iterator[bool]:
    """Be part of a cluster; gives whether that began here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = _ray()

    if ray.is_initialized():
        yield False
        return
    try:
        _begin(ray, address)
    except Exception as error:  # Ray raises the plain class when its processes start too slowly
        raise UnavailableError(
            f"a Ray cluster at {address}" if address else "a Ray cluster on this machine",
            got=str(error).splitlines()[0],
            do="start it, or change ray_address in operator.toml",
        ) from error
    try:
        yield True
    finally:
        ray.shutdown()


def _begin(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "configure_logging": False}
    if address:
        ray.init(address=address, **quiet)
        return
    for attempt in range(STARTS):
        try:
            ray.init(address="local", include_dashboard=False, **quiet)
        except Exception:  # it gives its own processes 30 seconds, which a busy machine may not
            ray.shutdown()
            if attempt + 1 == STARTS:
                raise
        else:
            return
