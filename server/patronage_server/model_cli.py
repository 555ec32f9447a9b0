"""Commands that put the consortium's model to use; heavy imports happen inside the commands."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from patronage_protocol.console import JsonFlag, print_json
from patronage_protocol.errors import UsageError

__all__ = ["chat", "export"]

RunArgument = Annotated[Path, typer.Argument(help="A folder of patronage simulate, or an operator's.")]
RoundOption = Annotated[int | None, typer.Option("--round", help="Which round; the last by default.", min=1)]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; as in operator.toml by default.")]
CacheOption = Annotated[
    Path | None, typer.Option(help="A folder of de-quantised models; as in operator.toml by default.")
]


def chat(
    run: RunArgument,
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts; none reads them from stdin.")] = None,
    rule: Annotated[
        str,
        typer.Option(help="policy, weights, ties, dare_ties, ...; with :mean or :size for other weights."),
    ] = "policy",
    max_new_tokens: Annotated[int, typer.Option(help="At most so many tokens an answer.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the most probable token.", min=0.0)] = 0.0,
    samples: Annotated[int, typer.Option(help="Answers a prompt; above one with a temperature.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Of the draws.", min=0)] = 0,
    round_number: RoundOption = None,
    device: DeviceOption = "",
    model_cache: CacheOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask the base model and the consortium's, side by side.

    The ledger is verified first, and the adapters are those whose digests are in it. At a terminal without
    prompts, each line is one; otherwise all of stdin is one prompt. Each prompt is answered by itself.

    Examples:
        patronage chat run/ "How do I reset my password?"
        patronage chat run/ --rule weights --temperature 0.7 --seed 1 --json < question.txt
    """
    from patronage_server.chat import ask, side_by_side
    from patronage_server.composition import Decoding
    from patronage_server.composition.catalogue import rule_named
    from patronage_server.run_folder import RunFolder

    asked = prompts or _from_stdin()
    decoding = Decoding(max_new_tokens=max_new_tokens, temperature=temperature, samples=samples, seed=seed)
    opened = RunFolder.open(run, round_number=round_number)
    chosen = rule_named(rule, opened.adapters(device=device or None, cache=model_cache))
    if as_json:
        answers = [ask(opened, chosen, prompt, decoding).as_json() for prompt in asked]
        owners = list(chosen.adapters.owners)
        print_json(
            {"round": opened.state.manifest.round, "rule": chosen.name, "owners": owners, "answers": answers}
        )
        return
    for prompt in asked:
        typer.echo(side_by_side(ask(opened, chosen, prompt, decoding)) + "\n")


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="A new folder for the adapter or the model.")],
    form: Annotated[
        Literal["adapter", "merged"], typer.Option("--as", help="A PEFT folder, or a whole model.")
    ] = "adapter",
    rank: Annotated[int | None, typer.Option(help="Cut to this rank by SVD.", min=1)] = None,
    weights: Annotated[Literal["sum", "mean", "size"], typer.Option(help="How the adapters add up.")] = "sum",
    owner: Annotated[
        list[str] | None, typer.Option(help="Only these; again for each. All by default.")
    ] = None,
    round_number: RoundOption = None,
    device: DeviceOption = "",
    model_cache: CacheOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the model of the consortium, or of some of its owners: one PEFT adapter, or merged weights.

    The adapter is the exact sum, of rank n r; --rank cuts it and says how much of its energy is kept.

    Examples:
        patronage export run/ --out consortium/ --rank 16
        patronage export run/ --out model/ --as merged
    """
    from patronage_server.exporting import export_consortium
    from patronage_server.run_folder import RunFolder

    opened = RunFolder.open(run, round_number=round_number)
    adapters = opened.adapters(device=device or None, cache=model_cache)
    found = export_consortium(
        adapters,
        out,
        merged=form == "merged",
        rank=rank,
        weights=weights,
        owners=owner,
        start=opened.start(),
    )
    if as_json:
        print_json(found.as_json())
    else:
        typer.echo(found.as_text())


def _from_stdin() -> Iterable[str]:
    if sys.stdin.isatty():
        return _typed()
    text = sys.stdin.read().strip()
    if not text:
        raise UsageError("a prompt as argument or on stdin", got="none", do="see the examples in --help")
    return [text]


def _typed() -> Iterator[str]:
    """Line by line, so that each is answered before the next one."""
    typer.echo("> ", nl=False, err=True)
    for line in sys.stdin:
        if line.strip():
            yield line.strip()
        typer.echo("> ", nl=False, err=True)
