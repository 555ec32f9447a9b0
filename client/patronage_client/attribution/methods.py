"""The registry: each method's name, one line about it, and where its function is. Imported when it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from patronage_protocol.errors import UsageError

if TYPE_CHECKING:
    from patronage_client.attribution.problem import Problem, Valuation

__all__ = ["METHODS", "Method", "method_named"]


@dataclass(frozen=True)
class Method:
    """A way to value pairs: `place` is `module:function`, which takes a Problem and gives a Valuation."""

    name: str
    summary: str
    place: str

    def load(self) -> "Callable[[Problem], Valuation]":
        """The function; brings torch."""
        module, _, function = self.place.partition(":")
        loaded = getattr(import_module(f"patronage_client.attribution.{module}"), function)
        return cast("Callable[[Problem], Valuation]", loaded)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("in-run", "In-Run Data Shapley under AdamW, first order", "in_run:first_order"),
        Method("in-run-2", "In-Run Data Shapley under AdamW, second order", "in_run:second_order"),
        Method("in-run-sgd", "In-Run Data Shapley under SGD, first order, as in its paper", "in_run:sgd"),
        Method("in-run-2-sgd", "In-Run Data Shapley under SGD, second order", "in_run:sgd_second_order"),
        Method("influence", "exact influence on the final adapter under AdamW", "influence:influence"),
        Method(
            "ts-dshapley", "Shapley values for a linear classifier, transferred", "ts_dshapley:ts_dshapley"
        ),
        Method("linfik", "first-order influence at the round's start, no training", "linfik:linfik"),
        Method("alinfik", "linfik for a part of the pairs, learnt from their text for all", "linfik:alinfik"),
        Method("less", "cosine of gradients at the round's start", "linfik:less"),
        Method("in-context", "how far a pair helps as an example (DELIFT)", "in_context:in_context"),
        Method("knn", "Shapley values for nearest neighbours", "baselines:knn"),
        Method("similarity", "mean cosine of representations", "baselines:similarity"),
        Method("random", "by chance, to compare with", "baselines:random"),
    )
}


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in METHODS:
        raise UsageError(f"a method of {', '.join(METHODS)}", got=repr(name), do="name one of them")
    return METHODS[name]
