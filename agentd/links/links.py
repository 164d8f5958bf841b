"""All links of an agent, and which transport each host gets."""

from __future__ import annotations

import itertools
import os
from functools import partial
from typing import TYPE_CHECKING

import trio

from agentd.links.asyncssh_link import AsyncsshTransport, over_asyncssh
from agentd.links.destination import parse_destination
from agentd.links.host import RETRYABLE, Host, LinkStatus
from agentd.links.openssh import OpensshTransport
from agentd.links.settings import Settings
from agentd.links.ssh import find_ssh
from agentd.links.stdio import StdioTransport, over_ssh
from proto.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentd.config import Config
    from agentd.links.link import Link
    from agentd.links.transport import Transport
    from proto.hello import Hello

_PREFIX = "link-"

SOCKET_PATH_MAX = 103
"""sun_path on macOS; Linux has four bytes more."""

_SSH_SUFFIX = len(".c.0123456789abcdef")
"""ssh binds its control socket under a longer name first."""


class Links:
    """``runtime_dir`` is the agent's own, 0700, and locked by it: sockets named link-* there are ours to remove."""

    def __init__(self, config: Config, identity: Callable[[], Hello], runtime_dir: str) -> None:
        self.config = config
        """May be replaced; the next connect of each host uses it."""
        self._identity = identity
        self.runtime_dir = runtime_dir
        """May be replaced, should it vanish; new links use it."""
        self._numbers = itertools.count(1)
        self._hosts: dict[str, Host] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then all links are down and no ssh is left."""
        self._remove_stale_sockets()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def link(self, host: str, environ: Mapping[str, str], *, retry_s: float = 0.0) -> Link:
        """The link to ``host``: the warm one, or a new one made with the newest environment.

        Callers share one attempt.  For ``retry_s`` seconds, what may get better by itself is tried again with growing
        pauses.  Raises SyncError.
        """
        if self._nursery is None:
            raise SyncError("agent-stopping", "the agent is stopping")
        manager = self._hosts.get(host)
        if manager is None:
            parse_destination(host)
            manager = self._hosts[host] = Host(
                host, self._identity, lambda: self.config.ssh.dead_after_s, partial(self._transports, host)
            )
            self._nursery.start_soon(manager.run)
        manager.remember(dict(environ))
        give_up_at = trio.current_time() + retry_s
        while True:
            try:
                return await manager.up()
            except SyncError as e:
                pause = manager.backoff_s()
                if e.code not in RETRYABLE or trio.current_time() + pause > give_up_at:
                    raise
            await trio.sleep(pause)
            if self._nursery is None:
                raise SyncError("agent-stopping", "the agent is stopping")

    def statuses(self) -> list[LinkStatus]:
        """A row for each host that was ever asked for."""
        return [manager.status() for manager in self._hosts.values()]

    async def _transports(
        self, host: str, environ: Mapping[str, str], nursery: trio.Nursery, denied: bool
    ) -> list[Transport]:
        """What to try for ``host``; ``denied`` is whether its sshd was seen to forward nothing."""
        mine = self.config.host(host)
        settings = Settings(
            host,
            parse_destination(host),
            self.config.transport(host),
            self.config.ssh.config_file,
            mine.remote_command,
            self.config.ssh.dead_after_s,
        )
        binary = await find_ssh(environ) if settings.transport != "asyncssh" else None
        if binary is None and settings.transport == "openssh":
            raise SyncError("ssh-missing", "there is no ssh on PATH")
        argv = over_asyncssh(settings, environ) if binary is None else over_ssh(binary, settings, environ)
        stdio = StdioTransport(argv, settings, environ, nursery)
        if settings.transport == "stdio" or (settings.transport == "auto" and denied):
            return [stdio]
        sockets = self._socket_prefix()
        forwarding: Transport
        if binary is None:
            forwarding = AsyncsshTransport(settings, environ, sockets, nursery)
        else:
            forwarding = OpensshTransport(binary, settings, environ, sockets, nursery)
        return [forwarding, stdio] if settings.transport == "auto" else [forwarding]

    def _socket_prefix(self) -> str:
        prefix = os.path.join(self.runtime_dir, f"{_PREFIX}{next(self._numbers)}")
        if len(os.fsencode(prefix)) + _SSH_SUFFIX > SOCKET_PATH_MAX:
            raise SyncError("config", f"{self.runtime_dir} is too long a path for ssh's sockets", "set XDG_RUNTIME_DIR")
        return prefix

    def _remove_stale_sockets(self) -> None:
        """A predecessor that was killed left them; ssh would refuse to bind."""
        for name in os.listdir(self.runtime_dir):
            if name.startswith(_PREFIX):
                os.unlink(os.path.join(self.runtime_dir, name))
