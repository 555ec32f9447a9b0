"""The command `patronage simulate fidelity`; heavy imports happen inside it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from patronage_protocol.console import JsonFlag, print_json
from patronage_protocol.errors import UsageError

__all__ = ["fidelity"]

DEFAULT_PRESET = "fidelity"


def fidelity(
    out: Annotated[Path, typer.Option(help="A new folder, or that of a study to go on with.")],
    scenario: Annotated[Path | None, typer.Argument(help="A scenario file (TOML).")] = None,
    preset: Annotated[str, typer.Option(help="A scenario that comes with Patronage.")] = "",
    owners: Annotated[Path | None, typer.Option(help="A folder with one file of pairs an owner.")] = None,
    heldout: Annotated[Path | None, typer.Option(help="The pairs on which coalitions are scored.")] = None,
    terms: Annotated[Path | None, typer.Option(help="Terms: TOML, or a preset's name.")] = None,
    base_model: Annotated[
        str, typer.Option(help="Hub id, folder, GGUF file, package:NAME or tiny; replaces the scenario's.")
    ] = "",
    seeds: Annotated[int, typer.Option(help="Train everything with so many seeds: 0, 1, ...", min=1)] = 3,
    sequence_seeds: Annotated[
        int, typer.Option(help="Train in sequence, in two orders, for so many of them.", min=0)
    ] = 3,
    epochs: Annotated[
        int, typer.Option(help="Train the first seed for so many epochs too; 0 for not.", min=0)
    ] = 0,
    stages: Annotated[
        str, typer.Option(help="What to measure: union, rules, sequences, longer; union always.")
    ] = "union,rules,sequences,longer",
    rules: Annotated[
        str, typer.Option(help="Rules of arithmetic that take forward passes, with commas between.")
    ] = "weights:sum,policy-tokens:sum,weights:mean,weights:size,ties:sum,dare_linear:sum",
    measured_only: Annotated[
        bool, typer.Option("--measured-only", help="Compute nothing: report on what is there.")
    ] = False,
    pairs: Annotated[int, typer.Option(help="A sample of so many pairs an owner; 0 for all.", min=0)] = 0,
    heldout_pairs: Annotated[
        int, typer.Option(help="A sample of so many held-out pairs; 0 for all.", min=0)
    ] = 0,
    longest: Annotated[int, typer.Option(help="Leave out pairs of more tokens; 0 keeps all.", min=0)] = 0,
    on_bad_row: Annotated[Literal["stop", "skip"], typer.Option(help="What an unusable row does.")] = "stop",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for torch's choice.", min=0)] = 0,
    model_cache: Annotated[
        Path | None, typer.Option(help="Keep de-quantised models here; the next start is fast.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Retrain every coalition, and tell how near each rule of arithmetic comes.

    Can be interrupted: given again, the same command goes on. Leaves OUT/tables.md, OUT/findings.json and
    OUT/figure-UTILITY.svg.

    Examples:
        patronage simulate fidelity --preset tiny --out study/
        patronage simulate fidelity --owners pairs/ --heldout heldout.jsonl --base-model MODEL --out study/
    """
    from patronage_simulations.fidelity.extent import Extent

    extent = Extent(_words(stages), _words(rules), sequence_seeds, epochs)

    import torch

    from patronage_protocol.policy import shared_base_model
    from patronage_simulations.fidelity.run import study, subject_of
    from patronage_simulations.plans import Computing, plan_of_files, plan_of_scenario
    from patronage_simulations.progress import Progress
    from patronage_simulations.scenarios import load_scenario

    progress = Progress()
    cache = str(model_cache.absolute()) if model_cache else ""
    computing = Computing(device=device, threads=threads, cache=cache)
    if owners is None:
        if heldout or terms:
            raise UsageError("--owners with --heldout and --terms", got="no --owners", do="name the folder")
        chosen = load_scenario(scenario or preset or DEFAULT_PRESET)
        plan = plan_of_scenario(
            chosen.model_copy(update={"base_model": base_model or chosen.base_model}), computing
        )
    else:
        if heldout is None or not base_model or scenario or preset:
            raise UsageError(
                "--owners with --heldout and --base-model, and no scenario",
                got="another combination",
                do="see the examples in --help",
            )
        plan = plan_of_files(
            owners,
            heldout,
            terms or Path(__file__).with_name("own_pairs.toml"),
            base_model,
            name=owners.absolute().name,
            seed=0,
            on_bad_row=on_bad_row,
            on_overlap="warn",
            computing=computing,
            progress=progress,
        )
    if threads:
        torch.set_num_threads(threads)
    progress.say(f"loading the base model {plan.base_model}")
    base = shared_base_model(plan.base_model, precision="auto", device=device, cache=computing.cache_folder)
    subject = subject_of(plan, base, range(seeds), pairs=pairs, held_out=heldout_pairs, longest=longest)
    _, findings = study(
        subject, base, out, extent, threads=threads or None, measured_only=measured_only, tell=progress.say
    )
    if as_json:
        print_json({"out": str(out), "utilities": [found.as_json() for found in findings]})
    else:
        for found in findings:
            for rule in found.rules:
                typer.echo(
                    f"{found.utility:<12} {rule.rule:<22} {rule.trainings:<6} error {rule.error:.3f} "
                    f"[{rule.lower:.3f}, {rule.upper:.3f}]"
                )
        typer.echo(f"\ntables  {out / 'tables.md'}\nnumbers {out / 'findings.json'}")


def _words(listed: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in listed.split(",") if word.strip())
