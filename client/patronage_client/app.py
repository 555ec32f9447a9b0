"""The owner's Flower ClientApp: carries messages to `Owner` and its answers back. Decides nothing itself.

A request is a ConfigRecord `patronage` of byte strings; so is an answer, with the adapter as one Array of raw
safetensors bytes beside it. What goes wrong is answered in words, so that the operator can log it. But what
is missing here (a file, room on the disk, memory) may be back in a minute, and is raised: the carrier tells
the operator, who asks again until the deadline.
"""

from collections.abc import Callable
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from patronage_client.home import OwnerHome
from patronage_client.owner import Owner
from patronage_protocol.envelopes import Envelope
from patronage_protocol.errors import FormatError, PatronageError, UnavailableError, UsageError
from patronage_protocol.ledger.rotation import KeyStatements
from patronage_protocol.passphrases import UNNAMED, Unlock
from patronage_protocol.wire import ADAPTER, ADAPTER_TYPE, RECORD, Action, Field

__all__ = ["app", "client_app"]

HomeOf = Callable[[Context], Path]
OwnerOf = Callable[[Context], Owner]


def home_of_node(context: Context) -> Path:
    """The owner's folder that the node was started with.

    Raises:
        UsageError: the node configuration does not name one.
    """
    home = context.node_config.get("patronage-home")
    if not isinstance(home, str):
        raise UsageError(
            "a node configuration with patronage-home",
            got=f"the keys {sorted(context.node_config)}",
            do="start the node with --node-config 'patronage-home=\"/path/to/owner\"'",
        )
    return Path(home)


def client_app(home_of: HomeOf = home_of_node, unlock: Unlock = UNNAMED) -> ClientApp:
    """A ClientApp that answers for an owner.

    Args:
        home_of: finds its folder.
        unlock: gives the passphrase of its key.
    """
    app = ClientApp()

    def owner_of(context: Context) -> Owner:
        return Owner(OwnerHome.load(home_of(context), unlock))

    @app.query(Action.OFFER)
    def offer(message: Message, context: Context) -> Message:
        def answer(owner: Owner) -> RecordDict:
            manifest, signature = _bytes(message, Field.MANIFEST), _bytes(message, Field.SIGNATURE)
            return _statement(owner.offer(manifest, signature, _rotations(message)))

        return _answer(message, context, owner_of, answer)

    @app.train(Action.TRAIN)
    def train(message: Message, context: Context) -> Message:
        def answer(owner: Owner) -> RecordDict:
            return _statement(owner.train(_envelope(message), _start(message)))

        return _answer(message, context, owner_of, answer)

    @app.query(Action.REVEAL)
    def reveal(message: Message, context: Context) -> Message:
        def answer(owner: Owner) -> RecordDict:
            opening, adapter = owner.reveal(_envelope(message))
            content = _statement(opening)
            array = Array(dtype="uint8", shape=(len(adapter),), stype=ADAPTER_TYPE, data=adapter)
            content[ADAPTER] = ArrayRecord({ADAPTER: array})
            return content

        return _answer(message, context, owner_of, answer)

    @app.query(Action.RECEIPT)
    def receipt(message: Message, context: Context) -> Message:
        def answer(owner: Owner) -> RecordDict:
            owner.receipt(_envelope(message))
            return _record({})

        return _answer(message, context, owner_of, answer)

    _add_step(app, Action.COSIGN, owner_of, lambda owner, request: owner.cosign(request))
    _add_step(app, Action.QUESTION, owner_of, lambda owner, request: owner.question(request))
    return app


def _add_step(
    app: ClientApp, action: str, owner_of: OwnerOf, step: Callable[[Owner, Envelope], Envelope]
) -> None:
    """A step whose request is an envelope and nothing else, and whose answer is a statement."""

    @app.query(action)
    def answer(message: Message, context: Context) -> Message:
        return _answer(message, context, owner_of, lambda owner: _statement(step(owner, _envelope(message))))


def _answer(
    message: Message, context: Context, owner_of: OwnerOf, answer: Callable[[Owner], RecordDict]
) -> Message:
    try:
        content = answer(owner_of(context))
    except UnavailableError:
        raise
    except PatronageError as error:
        content = _record({Field.PROBLEM: str(error).encode()})
    return Message(content, reply_to=message)


def _start(message: Message) -> bytes | None:
    """The adapter to start from; a round that starts from the base model sends none."""
    record = message.content.config_records.get(RECORD)
    return None if record is None or Field.START not in record else _bytes(message, Field.START)


def _rotations(message: Message) -> tuple[Envelope, ...]:
    return KeyStatements.decode(_bytes(message, Field.ROTATIONS)).statements


def _envelope(message: Message) -> Envelope:
    return Envelope.decode(_bytes(message, Field.STATEMENT))


def _bytes(message: Message, field: str) -> bytes:
    record = message.content.config_records.get(RECORD)
    value = record.get(field) if record is not None else None
    if not isinstance(value, bytes):
        raise FormatError(
            f"a message with {field}", got=type(value).__name__, do="update the operator's side"
        )
    return value


def _statement(envelope: Envelope) -> RecordDict:
    return _record({Field.STATEMENT: envelope.encode()})


def _record(fields: dict[str, bytes]) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord(dict(fields))})


app = client_app()
