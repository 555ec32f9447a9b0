"""Commands of this component; heavy imports happen inside the commands."""

import os
from pathlib import Path
from typing import Annotated, Literal

import click
import typer
from typer.core import TyperGroup

from patronage_protocol.console import JsonFlag, print_json
from patronage_protocol.errors import UsageError

__all__ = ["register"]

DEFAULT_PRESET = "tiny"
DEFAULT_TERMS = Path(__file__).with_name("own_pairs.toml")


def _list_presets(wanted: bool) -> None:
    if wanted:
        from patronage_simulations.scenarios import load_scenario, presets

        for name in presets():
            typer.echo(f"{name:<12} {load_scenario(name).description}")
        raise typer.Exit


RUN = "run"


class _RunUnlessNamed(TyperGroup):
    """`patronage simulate` runs a consortium, unless its first word names a study."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the run in front where no study is named."""
        return super().parse_args(ctx, args if args and args[0] in self.commands else [RUN, *args])


def register(app: typer.Typer) -> None:
    """Add this component's commands to the root application."""
    from patronage_simulations.fidelity_cli import fidelity

    about = (simulate.__doc__ or "").split("\n", maxsplit=1)[0]
    group = typer.Typer(cls=_RunUnlessNamed, rich_markup_mode=None, help=about)
    group.command(RUN)(simulate)
    group.command()(fidelity)
    app.add_typer(group, name="simulate")


def simulate(
    out: Annotated[Path, typer.Option(help="A new folder for everything that the run writes.")],
    scenario: Annotated[Path | None, typer.Argument(help="A scenario file (TOML).")] = None,
    preset: Annotated[str, typer.Option(help="A scenario that comes with Patronage.")] = "",
    owners: Annotated[Path | None, typer.Option(help="A folder with one file of pairs an owner.")] = None,
    heldout: Annotated[Path | None, typer.Option(help="The pairs on which coalitions are scored.")] = None,
    slices: Annotated[
        Path | None,
        typer.Option(help="A folder like --owners, with held-out pairs that owners contribute ([slices])."),
    ] = None,
    terms: Annotated[Path | None, typer.Option(help="Terms: TOML, or a preset's name.")] = None,
    base_model: Annotated[
        str, typer.Option(help="Hub id, folder, GGUF file, package:NAME or tiny; replaces the scenario's.")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="Replaces the scenario's seed.", min=0)] = None,
    rounds: Annotated[
        int, typer.Option(help="Rounds, each from the consortium's adapter of the last.", min=1, max=100)
    ] = 1,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="One process, or Flower's simulation engine.")
    ] = "local",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        Literal["auto", "bfloat16", "float32"], typer.Option(help="Of the base model, for everybody.")
    ] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads an owner; 0 for torch's choice.", min=0)] = 0,
    model_cache: Annotated[
        Path | None, typer.Option(help="Keep de-quantised models here; the next start is fast.")
    ] = None,
    on_bad_row: Annotated[Literal["stop", "skip"], typer.Option(help="What an unusable row does.")] = "stop",
    on_overlap: Annotated[
        Literal["warn", "refuse"], typer.Option(help="What a held-out pair that an owner has does.")
    ] = "warn",
    as_json: JsonFlag = False,
    _list: Annotated[
        bool, typer.Option("--list-presets", callback=_list_presets, is_eager=True, help="Name the presets.")
    ] = False,
) -> None:
    """Run a whole consortium on one machine, with the real code of both sides.

    Leaves RUN/ledger (published), RUN/report.html, RUN/adapter (PEFT), RUN/owners and RUN/operator.
    `patronage simulate fidelity --help` is about the study of how true arithmetic is.

    Examples:
        patronage simulate --preset demo --out run/
        patronage simulate --owners pairs/ --heldout heldout.jsonl --base-model MODEL --out run/
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # Flower reads it when it is imported
    from patronage_simulations.plans import Computing, plan_of_files, plan_of_scenario
    from patronage_simulations.progress import Progress
    from patronage_simulations.scenarios import load_scenario
    from patronage_simulations.simulate import simulate as run
    from patronage_simulations.summary import summary_of, table_of

    progress = Progress()
    computing = Computing(precision=precision, device=device, threads=threads, cache=_absolute(model_cache))
    if owners is None:
        if heldout or terms or slices:
            raise UsageError(
                "--owners with --heldout, --slices and --terms", got="no --owners", do="name the folder"
            )
        chosen = load_scenario(scenario or preset or DEFAULT_PRESET)
        changes = {
            "base_model": base_model or chosen.base_model,
            "seed": chosen.seed if seed is None else seed,
        }
        chosen = chosen.model_copy(update=changes)
        progress.say(f"loading the base model {chosen.base_model}")
        plan = plan_of_scenario(chosen, computing)
    else:
        if heldout is None or not base_model or scenario or preset:
            raise UsageError(
                "--owners with --heldout and --base-model, and no scenario",
                got="another combination",
                do="see the examples in --help",
            )
        progress.say(f"loading the base model {base_model}")
        plan = plan_of_files(
            owners,
            heldout,
            terms or DEFAULT_TERMS,
            base_model,
            name="consortium",
            seed=seed or 0,
            on_bad_row=on_bad_row,
            on_overlap=on_overlap,
            computing=computing,
            progress=progress,
            slices=slices,
        )
    states = run(plan, out, engine=engine, progress=progress, rounds=rounds)
    if as_json:
        every = [summary_of(state) for state in states]
        print_json({"out": str(out), **every[-1], "rounds": every})
    else:
        for state in states:
            typer.echo(f"round {state.manifest.round}" if rounds > 1 else "", nl=rounds > 1)
            typer.echo(table_of(state))
        adapter = out / (f"adapter-{rounds}" if rounds > 1 else "adapter")
        typer.echo(f"\nledger  {out / 'ledger'}\nreport  {out / 'report.html'}\nadapter {adapter}")


def _absolute(folder: Path | None) -> str:
    return str(folder.absolute()) if folder else ""
