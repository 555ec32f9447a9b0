"""The executor on a SuperNode's real Runtime API: it runs what is installed, never what a bundle brings."""

import hashlib
import io
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeState, NodeStateFactory

from patronage_client.executor import PATIENCE, Executor
from patronage_protocol.canonical import sha256
from patronage_server.bundle import BUNDLE, CONFIGURATION

SECRET = b"between the two of us"
RUN, NODE = 5, 7
SHADOW = "raise SystemExit(open({marker!r}, 'w').write('the bundle ran'))"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower's server imports


def packed(*files: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files:
            archive.writestr(name, text)
    return buffer.getvalue()


@contextmanager
def runtime_api(state: NodeStateFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = create_app(state_factory=state, superexec_auth_secret=SECRET)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def hand_in(factory: NodeStateFactory, bundle: bytes, *, number: int = RUN, content: bool = True) -> None:
    """What a SuperNode does with a message that it has pulled."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = number, 1, 1
    message = Message(RecordDict({"say": ConfigRecord({"word": "hello"})}), NODE, "query.echo")
    message.metadata.__dict__["_message_id"] = message.object_id
    digest = hashlib.sha256(bundle).hexdigest()
    run = Run.create_empty(number)
    run.fab_hash, run.series_id = digest, number
    state, store = factory.state(), factory.objectstore_factory.store()
    state.set_node_id(NODE)
    state.set_run_series_context(number, Context(number, NODE, {}, RecordDict(), {}, series_id=number))
    state.store_run(run)
    state.store_fab(Fab(digest, bundle, {}))
    assert state.create_task(task_type=TaskType.CLIENT_APP, run_id=number, fab_hash=digest) is not None
    store.preregister(number, get_object_tree(message))
    state.store_message(message)
    if not content:
        return
    for name, part in get_all_nested_objects(message).items():
        store.put(name, part.deflate())


def reply_of(state: NodeState) -> Message:
    (reply,) = state.get_messages_legacy(is_reply=True)
    return reply


def content_of(factory: NodeStateFactory) -> RecordDict:
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    store = factory.objectstore_factory.store()
    reply = reply_of(factory.state())
    tree = store.get_object_tree(reply.metadata.message_id)
    contents: dict[str, bytes] = {}

    def collect(node: object) -> None:
        contents[node.object_id] = store.get(node.object_id)  # type: ignore[attr-defined]
        for child in node.children:  # type: ignore[attr-defined]
            collect(child)

    collect(tree)
    message = inflate_object_from_contents(reply.metadata.message_id, contents)
    assert isinstance(message, Message)
    return message.content


def echo() -> ClientApp:
    app = ClientApp()

    @app.query("echo")
    def answer(message: Message, context: Context) -> Message:
        return Message(RecordDict({"say": ConfigRecord({"word": "installed"})}), reply_to=message)

    return app


def refusal(reason: str) -> RecordDict:
    return RecordDict({"no": ConfigRecord({"reason": reason})})


@pytest.fixture
def state() -> NodeStateFactory:
    return NodeStateFactory(objectstore_factory=ObjectStoreFactory())


def executor(address: str, *, pinned: str = sha256(BUNDLE), secret: bytes = SECRET) -> Executor:
    return Executor(address=address, secret=secret, pinned=pinned, app=echo, refuse=refusal)


def test_the_installed_app_answers_under_the_pinned_bundle(state: NodeStateFactory) -> None:
    with runtime_api(state) as address:
        assert not executor(address).take_one()
        hand_in(state, BUNDLE)
        assert executor(address).take_one()
    assert content_of(state).config_records["say"]["word"] == "installed"


def test_a_bundle_with_a_shadowing_package_is_refused_and_never_imported(
    state: NodeStateFactory, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    evil = packed(
        ("pyproject.toml", CONFIGURATION),
        (".info/CONTENT", f"pyproject.toml,{sha256(CONFIGURATION.encode())},0"),
        ("patronage_client/__init__.py", ""),
        ("patronage_client/app.py", SHADOW.format(marker=str(marker))),
    )
    with runtime_api(state) as address:
        hand_in(state, evil)
        assert executor(address, pinned=sha256(evil)).take_one()
    reason = content_of(state).config_records["no"]["reason"]
    assert "expected a bundle of configuration alone, got the file 'patronage_client/__init__.py'" in str(
        reason
    )
    assert not marker.exists()


def test_flowers_own_executor_would_have_run_the_shadowing_package(tmp_path: Path) -> None:
    """The attack is real: this is what the check above keeps away."""
    marker = tmp_path / "marker"
    files = {"patronage_client/__init__.py": "", "patronage_client/app.py": SHADOW.format(marker=str(marker))}
    files = {"pyproject.toml": CONFIGURATION, **files}
    listing = "\n".join(f"{name},{sha256(text.encode())},0" for name, text in files.items())
    (tmp_path / "evil.fab").write_bytes(packed(*files.items(), (".info/CONTENT", listing)))
    script = (
        "import hashlib, pathlib\n"
        "from flwr.cli.install import install_from_fab\n"
        "from flwr.clientapp.utils import get_load_client_app_fn\n"
        f"fab = pathlib.Path({str(tmp_path / 'evil.fab')!r}).read_bytes()\n"
        "install_from_fab(fab, skip_prompt=True)\n"
        "load = get_load_client_app_fn(default_app_ref='', app_path=None, multi_app=True)\n"
        "load('patronage/patronage-round', '1.0.0', hashlib.sha256(fab).hexdigest())\n"
    )
    environment = {"FLWR_HOME": str(tmp_path / "flower"), "FLWR_TELEMETRY_ENABLED": "0", "PATH": ""}
    subprocess.run([sys.executable, "-c", script], env=environment, check=False, capture_output=True)
    assert marker.read_text() == "the bundle ran"


def test_an_app_that_crashes_is_answered_with_an_error(state: NodeStateFactory) -> None:
    def crash() -> ClientApp:
        raise MemoryError("no room for the model")

    with runtime_api(state) as address:
        hand_in(state, BUNDLE)
        pinned = sha256(BUNDLE)
        assert Executor(address=address, secret=SECRET, pinned=pinned, app=crash, refuse=refusal).take_one()
    assert reply_of(state.state()).error.reason == "MemoryError: no room for the model"


def test_a_message_whose_content_never_comes_holds_nobody_up(
    state: NodeStateFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that ended while its message was received; the next run's message is behind it."""
    with runtime_api(state) as address:
        hand_in(state, BUNDLE, number=RUN, content=False)
        hand_in(state, BUNDLE, number=RUN + 1)
        ours = executor(address)
        ours.patience = 1.5
        assert ours.take_one()
        assert "a message had no content for 2 seconds; its task is given up" in caplog.messages
        assert ours.patience == 3.0
        assert ours.take_one()
        assert ours.patience == PATIENCE[0]
    assert content_of(state).config_records["say"]["word"] == "installed"


def test_only_who_knows_the_secret_gets_a_task(state: NodeStateFactory) -> None:
    with runtime_api(state) as address:
        hand_in(state, BUNDLE)
        with pytest.raises(httpx.HTTPStatusError):
            executor(address, secret=b"a guess").take_one()
