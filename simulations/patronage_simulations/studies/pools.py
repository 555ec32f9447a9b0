"""How far importance weights on a pool are from exact expectations, by the number of candidates.

    python -m patronage_simulations.studies.pools

A world of 64 answers to each of 400 prompts, three owners whose log-ratios are normal with a deviation of
0.7 nats, and a reward that all of them raise: every E_{pi_S}[r] is a sum over answers. Half of the candidates
come from pi_0 and half from everybody.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation.pools import CandidatePools, value_pools

__all__ = ["Line", "World", "lines"]

OWNERS, PROMPTS, ANSWERS, REPETITIONS = 3, 400, 64, 5
SIZES = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Line:
    """Errors of v(S) over all coalitions but the empty one, for pools of `candidates`."""

    candidates: int
    rms_error: float
    bias: float
    effective: float


class World:
    """Policies over a few answers that can all be listed."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.base = random.dirichlet(np.ones(ANSWERS), size=PROMPTS)
        self.ratios = 0.7 * random.normal(size=(OWNERS, PROMPTS, ANSWERS))
        self.rewards = 0.5 * self.ratios.sum(axis=0) + random.normal(size=(PROMPTS, ANSWERS))
        self.everybody = self.policy((1 << OWNERS) - 1)

    def policy(self, mask: int) -> NDArray[np.float64]:
        """pi_S(y) for every prompt and answer, (PROMPTS, ANSWERS)."""
        weights = self.base.copy()
        for owner in range(OWNERS):
            if mask >> owner & 1:
                weights *= np.exp(self.ratios[owner])
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def exact(self) -> NDArray[np.float64]:
        """v(S) of every coalition, (2^n,)."""
        gains = [
            ((self.policy(mask) - self.base) * self.rewards).sum(axis=1).mean() for mask in range(1 << OWNERS)
        ]
        return np.array(gains)

    def pools(self, size: int, seed: int) -> CandidatePools:
        """Pools of so many candidates, half of each source."""
        random, half = np.random.default_rng(seed), size // 2
        rows = [
            np.concatenate(
                [random.choice(ANSWERS, half, p=ours), random.choice(ANSWERS, size - half, p=theirs)]
            )
            for ours, theirs in zip(self.base, self.everybody, strict=True)
        ]
        drawn = np.stack(rows)

        def of(table: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.take_along_axis(table, drawn, axis=-1)

        return CandidatePools(
            log_ratios=np.stack([of(ratio) for ratio in self.ratios]),
            proposal=of(np.log(self.everybody / self.base)),
            from_base=half,
            rewards=of(self.rewards)[None],
        )


def lines(seed: int = 0) -> Iterator[Line]:
    """One line for each size of pool."""
    world = World(seed)
    exact = world.exact()
    for size in SIZES:
        found = [value_pools(world.pools(size, seed=repetition)) for repetition in range(REPETITIONS)]
        errors = np.array([one.values[1:, 0] - exact[1:] for one in found])
        yield Line(
            size,
            float(np.sqrt((errors**2).mean())),
            float(np.abs(errors.mean(axis=0)).mean()),
            float(np.mean([one.effective.min() for one in found])),
        )


def main(arguments: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--seed", type=int, default=0, help="of the world")
    options = parser.parse_args(arguments)
    write = sys.stdout.write
    write(f"v(N) = {World(options.seed).exact()[-1]:.3f}\n")
    write(f"{'candidates':>10} {'rms error':>10} {'bias':>8} {'fewest in effect':>17}\n")
    for line in lines(options.seed):
        write(f"{line.candidates:>10} {line.rms_error:>10.4f} {line.bias:>8.4f} {line.effective:>17.1f}\n")


if __name__ == "__main__":
    main()
