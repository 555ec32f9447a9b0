"""Semivalues: how a marginal contribution is weighted by the size of the coalition that it joins.

A semivalue is a probability measure mu on inclusion probabilities t in [0, 1] (Dubey, Neyman and Weber 1981):

    phi_i = int E_{S ~ t} [ v(S + i) - v(S) ] dmu(t),     every other owner in S with probability t

    Shapley          mu uniform
    Banzhaf          mu at t = 1/2
    Beta(a, b)       density ~ t^(b-1) (1-t)^(a-1)   (Kwon and Zou 2022; a > b favours small coalitions)
    leave-one-out    mu at t = 1

Only Shapley is efficient: its shares add up to v(N).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError

__all__ = ["Semivalue", "check_semivalue", "position_weights", "size_weights"]


@dataclass(frozen=True)
class Semivalue:
    """A probability measure on inclusion probabilities.

    Attributes:
        kind: the family.
        a: the exponent of 1 - t in a Beta density, plus one.
        b: the exponent of t in a Beta density, plus one.
    """

    kind: Literal["shapley", "banzhaf", "beta", "leave_one_out"] = "shapley"
    a: float = 1.0
    b: float = 1.0

    @classmethod
    def beta(cls, a: float, b: float) -> "Semivalue":
        """Beta(a, b) of Kwon and Zou (2022); Beta(1, 1) is Shapley.

        Raises:
            UsageError: a parameter out of [1/64, 1024].
        """
        for parameter in (a, b):
            if not 1 / 64 <= parameter <= 1024:
                raise UsageError(
                    "Beta parameters between 1/64 and 1024", got=f"({a}, {b})", do="choose milder ones"
                )
        return cls("beta", float(a), float(b)) if (a, b) != (1, 1) else cls()

    @property
    def efficient(self) -> bool:
        """Whether shares add up to the value of the grand coalition in every game."""
        return self.kind == "shapley"

    def __str__(self) -> str:
        return f"beta({self.a:g}, {self.b:g})" if self.kind == "beta" else self.kind


def check_semivalue(semivalue: str | Semivalue) -> Semivalue:
    """The semivalue of that name.

    Raises:
        UsageError: no such name.
    """
    if isinstance(semivalue, Semivalue):
        return semivalue
    named = {
        "shapley": Semivalue(),
        "banzhaf": Semivalue("banzhaf"),
        "leave_one_out": Semivalue("leave_one_out"),
    }
    if semivalue not in named:
        raise UsageError(
            f"a semivalue out of {', '.join(named)} or Semivalue.beta(a, b)",
            got=repr(semivalue),
            do="choose one of them",
        )
    return named[semivalue]


def size_weights(semivalue: Semivalue, n: int) -> NDArray[np.float64]:
    """gamma(s), s = 0 .. n-1: the weight of one coalition of size s that a given owner may join.

    gamma(s) = int t^s (1-t)^(n-1-s) dmu(t); over all 2^(n-1) coalitions the weights add up to 1.
    """
    if semivalue.kind == "leave_one_out":
        return np.asarray(np.eye(n)[n - 1])
    if semivalue.kind == "banzhaf":
        return np.full(n, 0.5 ** (n - 1))
    if semivalue.kind == "shapley":
        return np.array([1.0 / (n * math.comb(n - 1, s)) for s in range(n)])
    return np.array([math.exp(_log_size_weight(semivalue, n, s)) for s in range(n)])


def position_weights(semivalue: Semivalue, n: int) -> NDArray[np.float64]:
    """n C(n-1, s) gamma(s), s = 0 .. n-1: the weight of joining as number s + 1 of a random order; mean 1."""
    if semivalue.kind == "shapley":
        return np.ones(n)
    if semivalue.kind == "leave_one_out":
        return np.asarray(n * np.eye(n)[n - 1])
    choose = [math.lgamma(n) - math.lgamma(s + 1) - math.lgamma(n - s) for s in range(n)]
    return np.array([n * math.exp(log + _log_size_weight(semivalue, n, s)) for s, log in enumerate(choose)])


def _log_size_weight(semivalue: Semivalue, n: int, s: int) -> float:
    if semivalue.kind == "banzhaf":
        return -(n - 1) * math.log(2)
    a, b = semivalue.a, semivalue.b
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.lgamma(s + b) + math.lgamma(n - 1 - s + a) - math.lgamma(n - 1 + a + b) - log_beta
