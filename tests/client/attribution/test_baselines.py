from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from patronage_client.attribution import baselines, in_context
from patronage_client.attribution.baselines import knn, knn_shapley, similarity
from patronage_client.attribution.features import differences
from patronage_client.attribution.in_context import shown_before
from patronage_client.attribution.problem import Problem
from patronage_protocol.policy import tokenize_pairs
from patronage_protocol.policy.distances import completion_distances
from patronage_protocol.preferences import ChatMessage, PreferencePair

Make = Callable[..., Problem]


def exchanged(pair: PreferencePair) -> PreferencePair:
    return pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})


def by_definition(
    nearness: NDArray[np.float64], correct: NDArray[np.bool_], neighbours: int
) -> NDArray[np.float64]:
    """Shapley values by enumeration of all coalitions."""
    n, queries = nearness.shape

    def utility(members: tuple[int, ...]) -> float:
        total = 0.0
        for query in range(queries):
            nearest = sorted(members, key=lambda i: -nearness[i, query])[:neighbours]
            total += sum(correct[i] for i in nearest) / neighbours
        return total / queries

    values = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            for coalition in combinations(others, size):
                gain = utility((*coalition, i)) - utility(coalition)
                values[i] += gain / (n * comb(n - 1, size))
    return values


@settings(max_examples=25)
@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_knn_shapley_is_the_shapley_value_by_definition(
    n: int, queries: int, neighbours: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    nearness, correct = draw.normal(size=(n, queries)), draw.random(n) < 0.6
    found = knn_shapley(nearness, correct, neighbours)
    assert np.allclose(found, by_definition(nearness, correct, neighbours))


def test_exchanging_the_labels_turns_similarity_around(problem_of: Make) -> None:
    problem = problem_of()
    turned = replace(problem, pairs=tuple(exchanged(pair) for pair in problem.pairs))
    assert np.allclose(similarity(turned).values, -similarity(problem).values)


def test_a_pair_with_its_labels_exchanged_is_worth_less_to_its_neighbours(problem_of: Make) -> None:
    problem = problem_of()
    wrong = (*problem.pairs[:-1], exchanged(problem.pairs[-1]))
    assert knn(replace(problem, pairs=wrong)).values[-1] < knn(problem).values[-1]


def test_chance_knows_nothing_of_the_pairs_and_follows_the_seed(problem_of: Make) -> None:
    one = baselines.random(problem_of()).values
    assert np.array_equal(one, baselines.random(problem_of(pairs=problem_of().pairs[::-1])).values)
    assert not np.array_equal(one, baselines.random(replace(problem_of(), seed=1)).values)


def test_a_representation_does_not_depend_on_the_batch(problem_of: Make) -> None:
    problem = problem_of()
    alone = [differences(replace(problem, pairs=(pair,))).pairs[0] for pair in problem.pairs]
    assert np.allclose(differences(problem).pairs, alone, atol=1e-4)


def test_an_example_that_repeats_the_answer_brings_the_model_nearer_to_it(problem_of: Make) -> None:
    problem = problem_of()
    values = in_context.in_context(replace(problem, validation=problem.validation[:2])).values
    tokens = tokenize_pairs(problem.base, problem.validation[:2], max_length=256)
    assert values.shape == (14,)
    assert np.abs(values).max() > 0
    distances = completion_distances(problem.base.model, tokens)
    assert ((distances > 0) & (distances <= 1)).all()


def test_an_example_stands_before_the_prompt_in_any_form() -> None:
    plain = PreferencePair(prompt="p", chosen="good", rejected="bad")

    def said(role: str, content: str) -> tuple[ChatMessage, ...]:
        return (ChatMessage(role=role, content=content),)

    chat = PreferencePair(
        prompt=said("user", "q"), chosen=said("assistant", "yes"), rejected=said("assistant", "no")
    )
    assert shown_before(plain, plain).prompt == "pgood\n\np"
    assert shown_before(chat, plain).prompt == "q\nyes\n\np"
    assert shown_before(chat, chat).prompt == (*chat.prompt, *chat.chosen, *chat.prompt)
    assert shown_before(plain, chat).prompt == said("user", "pgood\n\nq")
    assert shown_before(plain, chat).rejected == chat.rejected
