"""Break the verifier on purpose, one place at a time, and see whether a test notices.

    pip install cosmic-ray==8.7.0
    python tests/mutation/run_mutants.py [--module ledger/notes] [--sample N] [--seed 0]

Each module and the tests that answer for it are in modules.toml. The operators are cosmic-ray's
(comparisons, arithmetic, `and` and `or`, `not`, numbers, loops that never run, exceptions that are not
caught) and two of our own, those that an attacker would wish for: a statement that is left out, such as a
check or a raise, and a condition that always holds.

cosmic-ray would start pytest anew for every mutant. Here pytest collects once; for each mutant a child
process gets the mutated code in place of the function's own and runs the tests that reach the function, the
fast ones first, until one fails. Mutants that compile to the same code (type annotations) are not counted.

A survivor must be in explained.toml with the reason why no test can see it, or the exit status is 1.
"""

import argparse
import difflib
import os
import random
import re
import signal
import sys
import time
import tomllib
import types
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import parso.python.tree
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "protocol" / "patronage_protocol"
CPU_SECONDS = 20.0
SLOWEST_TEST = 3.0
BINARY = {"Add_Sub", "Sub_Add", "Mul_FloorDiv", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "LShift_RShift"}
BINARY |= {"RShift_LShift", "BitAnd_BitXor", "BitXor_BitAnd", "Pow_Mul"}
COMPARISONS = {
    "Eq_NotEq",
    "Eq_LtE",
    "Eq_GtE",
    "NotEq_Eq",
    "NotEq_Lt",
    "NotEq_Gt",
    "Lt_LtE",
    "Lt_GtE",
    "LtE_Lt",
    "LtE_Gt",
}
COMPARISONS |= {"Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt", "In_NotIn", "NotIn_In", "Is_IsNot", "IsNot_Is"}
"""One or two replacements for each sign; `|` stands in types alone."""

REFUSALS = {
    "refuse",
    "_refuse",
    "_refused",
    "self._refused",
    "_failed",
    "VerificationError",
    "FormatError",
    "UsageError",
}

KILLED, SURVIVED, ENDLESS, UNREACHED = "killed", "survived", "endless", "not reached"


class LeaveOut(Operator):
    """A statement that is an expression, a raise, a del or an assertion becomes `pass`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if _can_go(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, _index: int) -> Any:
        return parso.python.tree.Keyword("pass", node.start_pos, prefix=_prefix(node))

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


class Always(Operator):
    """A condition of a comprehension, or of an `if`, that always holds."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type in {"comp_if", "if_stmt"}:
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node: Any, _index: int) -> Any:
        node.children[1] = parso.python.tree.Keyword("True", node.children[1].start_pos, prefix=" ")
        return node

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


@dataclass(frozen=True)
class Mutant:
    """One change: the new source, and the functions whose code it changes."""

    operator: str
    line: int
    before: str
    after: str
    codes: dict[str, types.CodeType]


@dataclass
class Outcome:
    """What became of the mutants of a module."""

    counts: Counter[str] = field(default_factory=Counter)
    survivors: list[Mutant] = field(default_factory=list)


def places_of(source: str) -> list[tuple[str, type[Operator], int]]:
    """Operator, its class, and the how-manieth place at which it can change this source.

    Not inside a raise or a refusal: the wording of a message decides nothing.
    """
    operators = [(name, get_operator(name)) for name in operator_names() if _wanted(name)]
    nodes = list(ast_nodes(get_ast(source)))
    places: list[tuple[str, type[Operator], int]] = []
    for name, kind in [*operators, ("leave-out", LeaveOut), ("always", Always)]:
        occurrence = 0
        for node in nodes:
            for _ in kind().mutation_positions(node):
                if kind is LeaveOut or not _is_message(node):
                    places.append((name, kind, occurrence))
                occurrence += 1
    return places


def mutants_of(source: str, places: list[tuple[str, type[Operator], int]]) -> Iterator[Mutant]:
    """The mutants at these places that change the code of a function, each once."""
    original, seen = _codes(source), {source}
    for name, kind, occurrence in places:
        changed = MutationVisitor(occurrence, kind()).walk(get_ast(source)).get_code()
        if changed not in seen:
            seen.add(changed)
            with suppress(SyntaxError):
                codes = {key: code for key, code in _codes(changed).items() if code != original.get(key)}
                if codes:
                    yield Mutant(name, *_difference(source, changed), codes)


class Mutations:
    """A pytest plugin: instead of running the tests once, run them against every mutant of one module."""

    def __init__(self, module: str, sample: int, seed: int) -> None:
        self.path = PACKAGE / f"{module}.py"
        self.name = f"patronage_protocol.{module.replace('/', '.')}"
        self.sample, self.seed = sample, seed
        self.outcome = Outcome()
        self.failed = False
        self.reached: dict[str, list[pytest.Item]] = defaultdict(list)

    def pytest_collection(self) -> None:
        import hypothesis  # not before pytest, which rewrites it

        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile(
            "mutants", database=None, derandomize=True, deadline=None, phases=phases, max_examples=30
        )
        hypothesis.settings.load_profile("mutants")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._baseline(session)
        source = self.path.read_text()
        places = places_of(source)
        self.outcome.counts["places"] = len(places)
        random.Random(self.seed).shuffle(places)
        for mutant in islice(mutants_of(source, places), self.sample or None):
            self.outcome.counts["tried"] += 1
            result = self._try(mutant)
            self.outcome.counts[result] += 1
            if result in {SURVIVED, UNREACHED}:
                self.outcome.survivors.append(mutant)
                print(f"{result}: {self.path.stem}:{mutant.line} {mutant.operator}", file=sys.__stderr__)
        return True

    def _baseline(self, session: pytest.Session) -> None:
        """Run every test once; note which functions of the module it enters, and drop the slow ones."""
        timed: list[tuple[float, pytest.Item, set[str]]] = []
        for item in session.items:
            entered: set[str] = set()

            def note(frame: types.FrameType, event: str, _: object, entered: set[str] = entered) -> None:
                if event == "call" and frame.f_code.co_filename == str(self.path):
                    entered.add(frame.f_code.co_qualname)

            began = time.process_time()
            sys.setprofile(note)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            sys.setprofile(None)
            timed.append((time.process_time() - began, item, entered))
        assert not self.failed, "the tests must pass before anything is broken"
        for seconds, item, entered in sorted(timed, key=lambda entry: entry[0]):
            if seconds <= SLOWEST_TEST:
                for name in entered:
                    self.reached[name].append(item)

    def _try(self, mutant: Mutant) -> str:
        items = list(dict.fromkeys(item for name in mutant.codes for item in self._items(name)))
        if not items:
            return UNREACHED
        child = os.fork()
        if child == 0:
            self._run(mutant, items)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return ENDLESS if os.WTERMSIG(status) == signal.SIGPROF else KILLED
        return SURVIVED if os.WEXITSTATUS(status) == 0 else KILLED

    def _items(self, name: str) -> list[pytest.Item]:
        # code inside a function (a closure, a comprehension) is reached where the function is
        outer = name.partition(".<locals>")[0]
        return [
            item
            for key, items in self.reached.items()
            if key.partition(".<locals>")[0] == outer
            for item in items
        ]

    def _run(self, mutant: Mutant, items: list[pytest.Item]) -> None:
        """In the child: put the mutant in place, run until a test fails, never return."""
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            functions = dict(_functions(sys.modules[self.name], self.name))
            for name, code in mutant.codes.items():
                if name in functions:
                    functions[name].__code__ = code
            _forget()
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self.failed:
                    os._exit(1)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, it was noticed
            os._exit(1)


def _codes(source: str) -> dict[str, types.CodeType]:
    """The code of every function and method, with what is inside it, by qualified name."""
    found: dict[str, types.CodeType] = {}

    def visit(code: types.CodeType) -> None:
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                is_class = "__qualname__" in constant.co_names and not constant.co_flags & 0x2
                if is_class:
                    visit(constant)
                else:
                    found[constant.co_qualname] = constant

    visit(compile(source, "<mutant>", "exec", dont_inherit=True))
    return {name: _without_lines(code) for name, code in found.items()}


def _without_lines(code: types.CodeType) -> types.CodeType:
    return code.replace(co_filename="<mutant>")


def _functions(owner: Any, module: str) -> Iterator[tuple[str, types.FunctionType]]:
    """Every function that a module defines, under properties, class methods and caches too."""
    for value in list(vars(owner).values()):
        for candidate in (
            value,
            *(getattr(value, name, None) for name in ("fget", "__func__", "func", "wrapped")),
        ):
            inner = getattr(candidate, "__wrapped__", candidate)
            if isinstance(inner, types.FunctionType) and inner.__module__ == module:
                yield inner.__qualname__, inner
        if isinstance(value, type) and value.__module__ == module and value is not owner:
            yield from _functions(value, module)


def _wanted(name: str) -> bool:
    if "Operator_" in name and "Unary" not in name:
        return name.partition("Operator_")[2] in BINARY | COMPARISONS
    return not any(part in name for part in ("NoOp", "Decorator", "Variable"))


def _forget() -> None:
    """Empty every cache of the package: what the whole code answered is not the mutant's answer."""
    for name, module in list(sys.modules.items()):
        if name.startswith("patronage_protocol"):
            for value in vars(module).values():
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()


def _can_go(node: Any) -> bool:
    if node.type in {"raise_stmt", "assert_stmt", "del_stmt"}:
        return True
    parent = node.parent
    return (
        parent is not None
        and parent.type == "simple_stmt"
        and node.type in {"atom_expr", "await_expr"}
        and parent.children[0] is node
    )


def _is_message(node: Any) -> bool:
    while node is not None:
        if node.type == "raise_stmt" or (
            node.type == "atom_expr" and node.children[0].get_code(False) in REFUSALS
        ):
            return True
        node = node.parent
    return False


def _prefix(node: Any) -> str:
    return str(node.get_first_leaf().prefix)


def _difference(before: str, after: str) -> tuple[int, str, str]:
    old, new = before.split("\n"), after.split("\n")
    line = next((k for k, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), 0)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    changed = [op for op in matcher.get_opcodes() if op[0] != "equal"]
    _, i1, i2, j1, j2 = changed[0]
    squeeze = lambda lines: re.sub(r"\s+", " ", " ".join(lines)).strip()  # noqa: E731
    return line + 1, squeeze(old[i1:i2]), squeeze(new[j1:j2])


def main() -> int:
    """Print the table; 0 if every survivor is explained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--module", action="append", help="only this one, such as ledger/notes")
    parser.add_argument("--sample", type=int, default=0, help="mutants a module (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args()
    here = Path(__file__).parent
    modules = tomllib.loads((here / "modules.toml").read_text())["tests"]
    explained = tomllib.loads((here / "explained.toml").read_text())
    unexplained = 0
    rows = []
    for module in options.module or modules:
        plugin = Mutations(module, options.sample, options.seed)
        began = time.monotonic()
        pytest.main(
            [
                "-q",
                "-p",
                "no:cacheprovider",
                "--no-header",
                *(str(ROOT / "tests" / test) for test in modules[module]),
            ],
            plugins=[plugin],
        )
        counts = plugin.outcome.counts
        reasons = {(entry["before"], entry["after"]) for entry in explained.get(module, [])}
        open_ones = [m for m in plugin.outcome.survivors if (m.before, m.after) not in reasons]
        unexplained += len(open_ones)
        rows.append((module, counts, len(plugin.outcome.survivors) - len(open_ones), len(open_ones)))
        for mutant in open_ones:
            print(f"\nSURVIVED {module}:{mutant.line} {mutant.operator}\n- {mutant.before}\n+ {mutant.after}")  # noqa: T201
        print(f"{module}: {time.monotonic() - began:.0f} s", file=sys.stderr)  # noqa: T201
    heads = ("places", "tried", "killed", "endless", "explained", "SURVIVED")
    print(f"\n{'module':<22}", *(f"{head:>9}" for head in heads))  # noqa: T201
    for module, counts, known, left in rows:
        figures = (counts["places"], counts["tried"], counts[KILLED], counts[ENDLESS], known, left)
        print(f"{module:<22}", *(f"{figure:>9}" for figure in figures))  # noqa: T201
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
