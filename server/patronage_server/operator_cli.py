"""The commands `patronage operator ...`; heavy imports happen inside the commands."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from patronage_protocol.console import EncryptFlag, JsonFlag, PassphraseFile, print_json
from patronage_server.key_cli import record_key, revoke_key, rotate_key

__all__ = ["operator"]

Home = Annotated[Path, typer.Argument(help="The operator's folder.")]

operator = typer.Typer(
    name="operator", help="Open rounds, score, pay, publish.", no_args_is_help=True, rich_markup_mode=None
)


@operator.command()
def init(
    home: Annotated[Path, typer.Argument(help="A new folder for the operator.")],
    consortium: Annotated[str, typer.Option(help="The consortium's name.")],
    address: Annotated[str, typer.Option(help="Where owners reach this machine, HOST:PORT.")],
    base_model: Annotated[str, typer.Option(help="Hub id, folder, GGUF file or `tiny`.")],
    heldout: Annotated[Path, typer.Option(help="The preference pairs on which coalitions are scored.")],
    development: Annotated[
        Path | None, typer.Option(help="Public pairs that owners may measure on; none of them held out.")
    ] = None,
    name: Annotated[str, typer.Option(help="The operator's name in the consortium.")] = "operator",
    terms: Annotated[Path | None, typer.Option(help="Round terms (TOML); a template if left out.")] = None,
    second_place: Annotated[
        Path | None,
        typer.Option(help="A file for the head signed last, best on another disk; an old backup is refused."),
    ] = None,
    superlink_port: Annotated[int, typer.Option(help="A free port on the loopback interface.")] = 9092,
    encrypt: EncryptFlag = False,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Found a consortium: keys, certificates, settings, terms.

    Example: patronage operator init operator --consortium care --address care.example:8443
             --base-model HuggingFaceTB/SmolLM2-135M --heldout heldout.jsonl
    """
    from pydantic import ValidationError

    from patronage_protocol.canonical import first_problem
    from patronage_protocol.errors import UsageError
    from patronage_protocol.passphrases import Passphrase
    from patronage_protocol.settings import read_settings
    from patronage_server.founding import Founding, found_operator
    from patronage_server.network import NetworkConfig

    try:
        network = NetworkConfig(
            name=name, consortium=consortium, address=address, superlink_port=superlink_port
        )
    except ValidationError as error:
        raise UsageError("usable names and addresses", got=first_problem(error), do="see --help") from error
    if terms is not None:
        from patronage_server.terms import RoundTerms

        read_settings(terms, RoundTerms)
    passphrase = Passphrase(passphrase_file).of_new_key(wanted=encrypt)
    founding = Founding(network, base_model, heldout, terms, second_place, development, passphrase)
    key = found_operator(home, founding)
    if as_json:
        print_json({"operator_key": key.text, "folder": str(home)})
        return
    typer.echo(key.text)
    typer.echo(
        "This is the operator's public key. Give it to owners over a channel that they trust.", err=True
    )


@operator.command("register")
def register_owner(
    home: Home,
    files: Annotated[list[Path], typer.Argument(help="Registration files from owners.")],
    as_json: JsonFlag = False,
) -> None:
    """Take owners in: their nodes may connect, and the next terms name them.

    Example: patronage operator register operator alice.json bob.json
    """
    from patronage_server.network import Network
    from patronage_server.registry import register as take

    network = Network.load(home)
    taken = [take(network, path) for path in files]
    if as_json:
        print_json({"registered": [entry.owner for entry in taken]})
        return
    for entry in taken:
        typer.echo(f"{entry.owner}  {entry.key}")


@operator.command("slice")
def take_slices(
    home: Home,
    files: Annotated[list[Path], typer.Argument(help="Files slice.json from registered owners.")],
    as_json: JsonFlag = False,
) -> None:
    """Take in held-out pairs that owners contribute; the next terms name them.

    Example: patronage operator slice operator slice.json
    """
    from patronage_server.home import OperatorHome
    from patronage_server.network import Network
    from patronage_server.slicing import take_slice

    operator_home, network = OperatorHome.load(home), Network.load(home)
    taken = [take_slice(operator_home, network, path) for path in files]
    if as_json:
        print_json(
            {"slices": [{"owner": one.owner, "root": one.root, "pairs": len(one.pairs)} for one in taken]}
        )
        return
    for one in taken:
        typer.echo(f"{one.owner}  {len(one.pairs)} pairs  {one.root}")


@operator.command()
def invite(home: Home, passphrase_file: PassphraseFile = None, as_json: JsonFlag = False) -> None:
    """Draw up the terms of the next round and write invitation.json for the owners.

    Example: patronage operator invite operator
    """
    import time

    from patronage_protocol.passphrases import Passphrase
    from patronage_server.home import OperatorHome
    from patronage_server.invite import invite as draw_up
    from patronage_server.invite import witnesses_to_spare
    from patronage_server.network import Network

    operator_home = OperatorHome.load(home, Passphrase(passphrase_file))
    manifest = draw_up(operator_home, Network.load(home), now=int(time.time()))
    path = home / "invitation.json"
    development = str(operator_home.development) if manifest.development else None
    if as_json:
        print_json(
            {
                "invitation": str(path),
                "development": development,
                "manifest": manifest.digest,
                "round": manifest.round,
            }
        )
        return
    typer.echo(manifest.digest)
    files = f"{path} and {development}" if development else path
    typer.echo(f"Send {files} to the {len(manifest.owners)} owners of round {manifest.round}.", err=True)
    typer.echo(witnesses_to_spare(manifest), err=True)


@operator.command("quote-model")
def quote_model(
    home: Home,
    sample: Annotated[Path, typer.Argument(help="Public pairs that the large model scores.")],
    out: Annotated[Path, typer.Option(help="Where to write the signed quote model.")],
    objective: Annotated[
        Path | None,
        typer.Option(help="Public pairs to score on, never the held-out ones; the development pairs."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Let prospective owners see what their pairs would be worth, from the text alone.

    Example: patronage operator quote-model operator public.jsonl --objective dev.jsonl --out quote-model.json
    """
    from patronage_protocol.passphrases import Passphrase
    from patronage_server.home import OperatorHome
    from patronage_server.network import Network
    from patronage_server.quoting import QuoteSource, make_quote_model

    operator_home = OperatorHome.load(home, Passphrase(passphrase_file))
    consortium = Network.load(home).config.consortium
    model = make_quote_model(operator_home, consortium, QuoteSource(sample, objective), out)
    found = model.accuracy
    if as_json:
        print_json(
            {
                "quote_model": str(out),
                "digest": model.digest,
                "pairs": model.pairs,
                "prompts": model.prompts,
                "spearman": found.spearman,
                "top_decile_recall": found.top_decile,
            }
        )
        return
    typer.echo(model.digest)
    typer.echo(
        f"A student of {model.pairs} pairs: rank correlation {found.spearman:.2f}, {found.top_decile:.0%} of "
        f"the best tenth found, on prompts that it had not seen. Give {out} to prospective owners.",
        err=True,
    )


@operator.command()
def abort(home: Home, passphrase_file: PassphraseFile = None, as_json: JsonFlag = False) -> None:
    """Give up a round whose pinned reward cannot score the answers; the whole budget is refunded.

    The ledger says so. Afterwards `patronage operator round DIR --resume` ends the round and publishes.

    Example: patronage operator abort operator
    """
    from patronage_protocol.passphrases import Passphrase
    from patronage_server.giving_up import give_up
    from patronage_server.home import OperatorHome

    state = give_up(OperatorHome.load(home, Passphrase(passphrase_file)))
    if as_json:
        print_json({"round": state.manifest.round, "phase": state.phase.value, "aborted": state.aborted})
        return
    typer.echo(
        f"round {state.manifest.round} is aborted; end it with: patronage operator round {home} --resume"
    )


@operator.command()
def serve(home: Home, passphrase_file: PassphraseFile = None) -> None:
    """Let owners' nodes connect, until interrupted.

    The rounds that it carries sign with the operator's key: this is the command that opens it for them.

    Example: patronage operator serve operator
    """
    import logging

    from patronage_protocol.passphrases import Passphrase
    from patronage_server.home import OperatorHome
    from patronage_server.network import Network
    from patronage_server.serve import serve as run

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    network, source = Network.load(home), Passphrase(passphrase_file)
    key_file = OperatorHome.load(home, source).key_file
    key_file.load()  # a wrong passphrase is told now, and not by a round that fails
    typer.echo(f"owners connect to {network.config.address}; SuperLink is at {network.superlink}", err=True)
    with source.lent(key_file.passphrase) as environment:
        run(network, environment)


@operator.command("round")
def conduct_round(
    home: Home,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a round that is under way.")] = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Score adapters on this machine, or on the Ray cluster of operator.toml."),
    ] = "local",
    as_json: JsonFlag = False,
) -> None:
    """Run the round of the current terms to its end and publish the ledger.

    It needs no passphrase: the round is driven by `patronage operator serve`, which has it.

    Example: patronage operator round operator
    """
    from patronage_server.conduct import conduct
    from patronage_server.home import OperatorHome
    from patronage_server.network import Network

    if engine == "ray":
        from patronage_server.ray_scoring import require_ray

        require_ray()
    operator_home = OperatorHome.load(home)
    state, report = conduct(
        operator_home,
        Network.load(home),
        resume=resume,
        say=lambda line: typer.echo(line, err=True),
        engine=engine,
    )
    payments = state.settlement.payments if state.settlement else ()
    if as_json:
        paid = [{"owner": one.owner, "amount": str(one.amount), "reason": one.reason} for one in payments]
        print_json(
            {
                "round": state.manifest.round,
                "run": str(report.run),
                "bytes_sent": str(report.sent),
                "bytes_received": str(report.received),
                "payments": paid,
                "ledger": str(operator_home.published),
            }
        )
        return
    for one in payments:
        typer.echo(f"{one.owner}  {one.amount}  {one.reason}")
    typer.echo(
        f"Published: {operator_home.published}. Check it: patronage verify {operator_home.published}",
        err=True,
    )


@operator.command()
def status(home: Home, as_json: JsonFlag = False) -> None:
    """Show the round, the owners, their nodes and the latest run.

    Example: patronage operator status operator --json
    """
    from patronage_server.home import OperatorHome
    from patronage_server.network import Network
    from patronage_server.status import operator_status

    found = operator_status(OperatorHome.load(home), Network.load(home))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    typer.echo(f"SuperLink    {found.superlink}")
    typer.echo(f"certificate  valid until {found.certificate_until}")
    if found.round is None:
        typer.echo("round        none yet")
    else:
        driven = "being driven" if found.driven else "not being driven"
        typer.echo(f"round        {found.round.number}, phase {found.round.phase}, {driven}")
    typer.echo(f"latest run   {found.run or 'none'}")
    for owner in found.owners:
        typer.echo(f"  {owner.name:<24} node {owner.node:<12} {owner.standing}")


@operator.command()
def renew(home: Home, as_json: JsonFlag = False) -> None:
    """Make a new server certificate from the consortium's authority; owners need do nothing.

    Example: patronage operator renew operator
    """
    from patronage_server.founding import renew as make
    from patronage_server.network import Network

    until = make(Network.load(home))
    if as_json:
        print_json({"until": until.isoformat()})
        return
    typer.echo(f"valid until {until:%Y-%m-%d}; restart: patronage operator serve {home}")


for _name, _command in (("rotate-key", rotate_key), ("revoke-key", revoke_key), ("record-key", record_key)):
    operator.command(_name)(_command)
