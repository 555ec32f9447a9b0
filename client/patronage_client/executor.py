"""Runs what the owner installed, for the tasks that its SuperNode holds, and never what a bundle brings.

Flower's executor installs the bundle of a run and imports the app from there. With `--isolation process` a
SuperNode leaves that to whoever knows its secret: this loop takes a task over the SuperNode's Runtime API on
the loopback interface, checks the bundle, and calls the installed ClientApp in this process.

    acquire task -> pull context, run, bundle, message -> check bundle -> app(message) -> push reply -> done

The protocol of the Runtime API is Flower's (flwr.proto.Runtime, flwr 1.41).
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from patronage_client.bundle import check_bundle
from patronage_protocol.errors import PatronageError

__all__ = ["Executor"]

log = logging.getLogger("patronage.owner")

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"

Refuse = Callable[[str], RecordDict]
"""The content of the answer to a run whose bundle is refused; gets the reason."""


PATIENCE = (30.0, 3600.0)
"""Seconds to wait for the content of a message: the first time, and at most after waits that were in vain."""


class _NoContentError(Exception):
    """The content of a message has not come in time."""


@dataclass
class Executor:
    """The owner's executor.

    Attributes:
        address: host and port of the SuperNode's Runtime API, on this machine.
        secret: shared with the SuperNode.
        pinned: SHA-256 of the one bundle under which anything is run.
        app: gives what is run; called when the first task is here.
        refuse: says no.
        patience: seconds for which the content of a message is waited for. Where a run ends while a SuperNode
            receives a message, flwr 1.41 leaves a task whose content never comes; what lies behind it must
            not wait forever. Doubled after each wait in vain, for slow cables.
    """

    address: str
    secret: bytes
    pinned: str
    app: Callable[[], ClientApp]
    refuse: Refuse
    patience: float = PATIENCE[0]

    def take_one(self) -> bool:
        """Do the next task, if there is one; returns whether there was.

        Raises:
            httpx.HTTPError: the SuperNode does not answer.
        """
        superexec = SuperExecAuthHttpInterceptor(master_secret=self.secret, protected_methods={ACQUIRE})
        client = self._client("SuperExec", superexec)
        try:
            request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
            acquired = client.AcquireTask(request)
        finally:
            client.close()
        if not acquired.token:
            return False
        self._do(acquired.token)
        return True

    def _do(self, token: str) -> None:
        client = self._client("flwr-clientapp", RuntimeTokenHttpInterceptor(token))
        heartbeat = HeartbeatSender(lambda: _beat(client))
        heartbeat.start()
        try:
            message, context, _run, bundle = self._pulled(client)
            reply, problem = self._answer(message, context, bundle.content)
            push_message(client, reply, context)
            outcome = SubStatus.FAILED if problem else SubStatus.COMPLETED
            push_task_output(client, context, outcome, problem)
        except _NoContentError:
            log.warning("a message had no content for %.0f seconds; its task is given up", self.patience)
            self.patience = min(2 * self.patience, PATIENCE[1])
        finally:
            heartbeat.stop()
            client.close()

    def _pulled(self, client: RuntimeHttpClient) -> tuple[Message, Context, Run, Fab]:
        until = time.monotonic() + self.patience
        pull = client.PullObject

        def in_time(request: PullObjectRequest) -> PullObjectResponse:
            response = pull(request)
            if response.object_found and not response.object_available and time.monotonic() > until:
                raise _NoContentError
            return response

        vars(client)["PullObject"] = in_time  # in front of the class's
        task = pull_task_input(client)
        self.patience = PATIENCE[0]
        return task

    def _answer(self, message: Message, context: Context, bundle: bytes) -> tuple[Message, str]:
        """The reply, and what went wrong."""
        try:
            check_bundle(bundle, self.pinned)
        except PatronageError as error:
            log.warning("refused run %d: %s", message.metadata.run_id, error)
            return Message(self.refuse(str(error)), reply_to=message), str(error)
        try:
            return self.app()(message, context), ""
        except Exception as error:
            if isinstance(error, PatronageError):
                log.warning("%s failed, and will be asked again: %s", message.metadata.message_type, error)
                problem = str(error)
            else:
                log.exception("%s failed", message.metadata.message_type)
                problem = f"{type(error).__name__}: {error}"
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, problem), reply_to=message)
            return reply, problem

    def _client(self, component: str, interceptor: ProtobufClientInterceptor) -> RuntimeHttpClient:
        # No retry invoker: Flower's ends the process on a refused token. The caller starts again instead.
        return RuntimeHttpClient.from_server_address(
            self.address,
            insecure=True,  # the loopback interface of this machine
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name=component), interceptor],
        )


def _beat(client: RuntimeHttpClient) -> bool:
    try:
        if not client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
            log.warning("the SuperNode has given the task up; its result will not be used")
    except httpx.HTTPError as error:
        log.warning("no heartbeat: %s", error)
        return False
    return True
