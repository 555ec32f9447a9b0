"""DELIFT's in-context utility: how far a pair, shown as an example, helps with validation pairs.

    u_ij = d(x_j, y+_j) - d(x_i y+_i x_j, y+_j)                          d: policy.distances
    v_i  = mean_j (u_ij for the chosen completion - u_ij for the rejected one)

Source: Agarwal et al. 2025, arXiv 2411.04425: the utility of sample i for sample j is the fall of the
distance between the model's predictions and the response of j when i stands before it. Theirs is for
responses; a preference has two, so an example helps if it brings the chosen one nearer more than the
rejected one. Their subset selection on top of the utility (facility location) is not here: a value per pair
is asked for.

Each pair is shown before each of at most `VALIDATION` validation pairs, drawn by the problem's seed.
"""

from itertools import product

import numpy as np

from patronage_client.attribution.problem import Problem, Valuation
from patronage_protocol.policy import tokenize_pairs
from patronage_protocol.policy.distances import completion_distances
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.valuation.streams import Stream

__all__ = ["VALIDATION", "in_context", "shown_before"]

VALIDATION = 8
"""Validation pairs that examples are tried on; the cost grows with it."""


def in_context(problem: Problem) -> Valuation:
    """Value the pairs of a problem as examples."""
    order = Stream(problem.seed).permutations(1, len(problem.validation))[0][:VALIDATION]
    tried = [problem.validation[j] for j in sorted(order)]
    shown = [shown_before(pair, other) for pair, other in product(problem.pairs, tried)]
    room = 2 * problem.dpo.max_length
    model = problem.base.model
    alone = completion_distances(model, tokenize_pairs(problem.base, tried, max_length=room))
    after = completion_distances(
        model, tokenize_pairs(problem.base, shown, max_length=room), progress=problem.progress
    )
    nearer = alone[None] - after.reshape(len(problem.pairs), len(tried), 2)
    return Valuation(
        "in-context",
        "fall of the distance to the chosen completion, less that to the rejected one",
        np.asarray((nearer[:, :, 0] - nearer[:, :, 1]).mean(axis=1)),
        (f"each pair was shown before {len(tried)} of {len(problem.validation)} validation pairs",),
    )


def shown_before(example: PreferencePair, pair: PreferencePair) -> PreferencePair:
    """`pair` with the prompt and the chosen completion of `example` in front of its prompt.

    Where one is made of messages and the other of plain text, the messages are written out.
    """
    if isinstance(example.prompt, str) or isinstance(example.chosen, str):
        before: str = f"{_plain(example.prompt)}{_plain(example.chosen)}"
    elif not isinstance(pair.prompt, str):
        return pair.model_copy(update={"prompt": (*example.prompt, *example.chosen, *pair.prompt)})
    else:
        before = f"{_plain(example.prompt)}\n{_plain(example.chosen)}"
    if isinstance(pair.prompt, str):
        return pair.model_copy(update={"prompt": f"{before}\n\n{pair.prompt}"})
    first, *rest = pair.prompt
    opened = first.model_copy(update={"content": f"{before}\n\n{first.content}"})
    return pair.model_copy(update={"prompt": (opened, *rest)})


def _plain(part: object) -> str:
    if isinstance(part, str):
        return part
    assert isinstance(part, tuple), "a text is a string or messages"
    return "\n".join(message.content for message in part)
