"""What a link is made from: the host, the configuration for it, and the person's environment."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from proto.job import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd.links.destination import Destination

TRANSPORTS = ("auto", "openssh", "asyncssh", "stdio")


class Settings(NamedTuple):
    """One host's, from config.toml."""

    host: str
    """As the person wrote it; for messages."""
    destination: Destination
    transport: str = "auto"
    config_file: str | None = None
    remote_command: str | None = None
    dead_after_s: float = 15.0


def child_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The agent's own environment, with the person's in place of what a resident process has outlived."""
    merged = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT or name == "PATH"}
    merged.update({name: environ[name] for name in ENVIRONMENT if name in environ and name != "PWD"})
    if may_ask(environ):
        merged["SSH_ASKPASS_REQUIRE"] = "force"
    return merged


def may_ask(environ: Mapping[str, str]) -> bool:
    """Whether ssh can ask the person for a passphrase: by their SSH_ASKPASS, there being no terminal."""
    return bool(environ.get("SSH_ASKPASS"))


def agent_answers(environ: Mapping[str, str]) -> bool | None:
    """Whether something listens on SSH_AUTH_SOCK; None when it is not set."""
    path = environ.get("SSH_AUTH_SOCK")
    if not path:
        return None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            return True
        except (OSError, ValueError):
            return False
    return True


def describe_agent(environ: Mapping[str, str]) -> str:
    """For the message of a refused key."""
    answers = agent_answers(environ)
    if answers is None:
        return "no SSH agent: SSH_AUTH_SOCK is not set where the command ran"
    return "the SSH agent at SSH_AUTH_SOCK " + ("was asked" if answers else "does not answer")
