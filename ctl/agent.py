"""start, stop, restart, and the verbs whose work is in modules of their own."""

from __future__ import annotations

import os
import sys

from ctl.client import connect, socket_paths
from proto import limits
from proto.control_agent import Stop
from proto.control_ends import Error
from proto.errors import EXIT_DONE, SyncError
from proto.hello import Hello
from proto.record import TYPE_CHECKING
from proto.version import VERSION

if TYPE_CHECKING:
    from ctl.argv import Values

_ID = 1
_STOP_S = 30.0
"""An agent rolls back what is in flight before it ends."""


def run(verb: str, values: Values) -> int:
    """Carry the verb out; the exit status.  Raises SyncError."""
    if verb == "stop":
        return stop()
    if verb == "restart":
        try:
            stop()
        except SyncError as e:
            if e.code != "no-agent":
                raise
        return _start()
    if verb == "start":
        return _start_as(values)
    if verb == "relay":
        return _far_end(relay=True)
    from ctl import services

    if verb == "enable":
        services.enable()
    else:
        services.disable()
    return EXIT_DONE


def stop() -> int:
    """End the agent and wait until it is gone.  Raises SyncError."""
    client = connect(start=False)
    try:
        client.ask(Stop(_ID))
        message, _ = client.answer()
        if type(message) is Error:
            raise SyncError.from_wire(message.code, message.message, message.hint)
        client.wait_end(_STOP_S)
    finally:
        client.close()
    _wait_gone()
    return EXIT_DONE


def _wait_gone() -> None:
    """Until the agent has let go of its lock: only then can the next one start.  Raises SyncError."""
    import fcntl
    from time import monotonic, sleep

    from proto.places import lock_path, places

    deadline = monotonic() + _STOP_S
    while monotonic() < deadline:
        try:
            fd = os.open(lock_path(places(os.environ, os.geteuid(), sys.platform).state), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            sleep(0.01)
        finally:
            os.close(fd)
    raise SyncError("internal", f"the agent did not end within {_STOP_S:g} s", "see its log; then kill it")


def _start() -> int:
    connect(start=True).close()
    return EXIT_DONE


def _start_as(values: Values) -> int:
    if values.get("hold"):
        return _far_end(relay=False)
    if values.get("foreground"):
        from ctl.spawn import foreground

        foreground(os.environ)
    try:
        connect(start=False).close()
    except SyncError as e:
        if e.code != "no-agent":
            raise
        return _start()
    sys.stderr.write("the agent is running already\n")
    return EXIT_DONE


def _far_end(*, relay: bool) -> int:
    from ctl.spawn import start_agent

    control_socket, peer_socket = socket_paths()
    ours = Hello("cli", limits.PROTOCOL_MIN, limits.PROTOCOL_MAX, VERSION)
    if relay:
        from ctl.relay import relay_agent as serve
    else:
        from ctl.hold import hold as serve
    return serve(control_socket, peer_socket, lambda: start_agent(os.environ), ours)
