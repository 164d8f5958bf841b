"""``syncctl enable`` and ``disable``: the agent starts at login, by the service manager that runs for this person.

The unit files are templates beside the packages (``systemd/``), rendered with the paths of this installation.  Only
files that this program wrote are replaced or removed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from ctl.command import agent_command
from proto.errors import SyncError
from proto.places import places

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MARK = "Written by 'syncctl enable'"
_SERVICE, _SOCKET, _PLIST = "agentd.service", "agentd.socket", "org.syncctl.agentd.plist"
_MANAGER_S = 60.0
_PASSED_ON = ("SYNCCTL_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
"""What decides where the agent's places are: a manager does not know what a shell's login files set."""


class Manager(NamedTuple):
    """A service manager: where its files go, and what makes it take them in or let them go."""

    directory: str
    names: tuple[str, ...]
    taken_in: tuple[tuple[str, ...], ...]
    """Commands; one that begins with "-" may fail."""
    let_go: tuple[tuple[str, ...], ...]
    forgotten: tuple[tuple[str, ...], ...]
    """After the files are gone."""
    render: Callable[[str, list[str], Mapping[str, str], str], str]


def enable() -> None:
    """Have the agent started at login, and start it; without a service manager, start it.  Raises SyncError."""
    manager = find_manager(os.environ, os.geteuid(), sys.platform)
    if manager is None:
        _start_alone()
        return
    control_socket = places(os.environ, os.geteuid(), sys.platform).control_socket
    passed_on = {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
    for name in manager.names:
        _refuse_foreign(os.path.join(manager.directory, name))
    # an agent outside of the manager would hold the lock against the one that the manager starts
    _stop_if_running()
    try:
        os.makedirs(manager.directory, exist_ok=True)
        for name in manager.names:
            text = manager.render(_template(name), agent_command(), passed_on, control_socket)
            _write(os.path.join(manager.directory, name), text)
    except OSError as e:
        said = f"cannot write to {manager.directory}: {e.strerror}"
        raise SyncError("usage", said, "check its permissions") from None
    for command in manager.taken_in:
        _order(command)
    sys.stdout.write(f"the agent runs, and starts at login ({os.path.join(manager.directory, manager.names[0])})\n")
    if sys.platform == "linux":
        sys.stdout.write("to keep it running without a login: loginctl enable-linger\n")


def disable() -> None:
    """Undo ``enable``; the agent that the manager started ends.  Raises SyncError."""
    manager = find_manager(os.environ, os.geteuid(), sys.platform)
    if manager is None:
        sys.stdout.write("no service manager runs for you here, so nothing starts the agent at login\n")
        return
    paths = [os.path.join(manager.directory, name) for name in manager.names]
    ours = [path for path in paths if os.path.lexists(path)]
    if not ours:
        sys.stdout.write("it was not enabled\n")
        return
    for path in ours:
        _refuse_foreign(path)
    for command in manager.let_go:
        _order(command)
    for path in ours:
        os.unlink(path)
    for command in manager.forgotten:
        _order(command)
    sys.stdout.write("the agent ended, and does not start at login any more\n")


def find_manager(environ: Mapping[str, str], uid: int, platform: str) -> Manager | None:
    """The service manager that runs for this person; None when none answers."""
    home = environ.get("HOME") or os.path.expanduser("~")
    if platform == "darwin":
        domain = f"gui/{uid}"
        if not _answers(("launchctl", "print", domain)):
            return None
        directory = f"{home}/Library/LaunchAgents"
        return Manager(
            directory,
            (_PLIST,),
            (
                ("-", "launchctl", "bootout", f"{domain}/org.syncctl.agentd"),
                ("launchctl", "bootstrap", domain, f"{directory}/{_PLIST}"),
            ),
            (("launchctl", "bootout", f"{domain}/org.syncctl.agentd"),),
            (),
            render_plist,
        )
    if not _answers(("systemctl", "--user", "show-environment")):
        return None
    config = environ.get("XDG_CONFIG_HOME", "")
    directory = f"{config if config.startswith('/') else home + '/.config'}/systemd/user"
    systemctl = ("systemctl", "--user")
    return Manager(
        directory,
        (_SERVICE, _SOCKET),
        ((*systemctl, "daemon-reload"), (*systemctl, "enable", _SERVICE), (*systemctl, "restart", _SERVICE)),
        ((*systemctl, "disable", "--now", _SERVICE, _SOCKET),),
        ((*systemctl, "daemon-reload"),),
        render_unit,
    )


def render_unit(template: str, command: list[str], environ: Mapping[str, str], control_socket: str) -> str:
    """A systemd unit.  Raises SyncError for what a unit cannot say."""
    words = [_unit_word(word).replace("$", "$$") for word in command]
    # the first word is no subject of $-expansion
    words[0] = _unit_word(command[0])
    lines = [f"Environment={_unit_word(f'{name}={value}')}" for name, value in environ.items()]
    socket = _one_line(control_socket).replace("%", "%%")
    rendered = template.replace("@CONTROL_SOCKET@", socket).replace("@COMMAND@", " ".join(words))
    return rendered.replace("@ENVIRONMENT@\n", "".join(f"{line}\n" for line in lines))


def render_plist(template: str, command: list[str], environ: Mapping[str, str], control_socket: str) -> str:
    """A launchd property list.  Raises SyncError for what one cannot say."""
    from xml.sax.saxutils import escape

    words = [f"\t\t<string>{escape(_one_line(word))}</string>" for word in command]
    variables = [
        f"\t\t<key>{escape(name)}</key>\n\t\t<string>{escape(_one_line(value))}</string>"
        for name, value in environ.items()
    ]
    rendered = template.replace("@CONTROL_SOCKET@", escape(_one_line(control_socket)))
    return rendered.replace("@COMMAND@", "\n".join(words)).replace("@ENVIRONMENT@", "\n".join(variables))


def _unit_word(word: str) -> str:
    """One word of a unit's command line, quoted (systemd.syntax(7)); % begins a specifier."""
    word = _one_line(word).replace("%", "%%")
    if word and all(c.isalnum() or c in "/._-+=:@%" for c in word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise SyncError("usage", f"a service file cannot hold the path {value!r}", "install syncctl at a plainer path")
    return value


def _template(name: str) -> str:
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "systemd", name)
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as e:
        raise SyncError("internal", f"cannot read {path}: {e.strerror}", "reinstall syncctl") from None


def _refuse_foreign(path: str) -> None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            if _MARK in file.read():
                return
    except FileNotFoundError:
        return
    except OSError as e:
        raise SyncError("usage", f"cannot read {path}: {e.strerror}", "check its permissions") from None
    raise SyncError("usage", f"{path} was not written by syncctl", "move it away; it is left as it is")


def _write(path: str, text: str) -> None:
    """Whole or not at all."""
    aside = f"{path}.{os.getpid()}~"
    try:
        with open(aside, "x", encoding="utf-8") as file:
            file.write(text)
        os.replace(aside, path)
    except BaseException:
        try:
            os.unlink(aside)
        except OSError:
            pass
        raise


def _start_alone() -> None:
    from ctl.client import connect

    connect(start=True).close()
    sys.stdout.write("no service manager runs for you here: the agent runs now, and does not start at login\n")


def _stop_if_running() -> None:
    from ctl.agent import stop

    try:
        stop()
    except SyncError as e:
        if e.code != "no-agent":
            raise


def _answers(command: tuple[str, ...]) -> bool:
    try:
        return _run(command).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _order(command: tuple[str, ...]) -> None:
    if command[0] == "-":
        _answers(command[1:])
        return
    said = " ".join(command)
    try:
        done = _run(command)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise SyncError("internal", f"'{said}': {e}", "run it by hand to see why") from None
    if done.returncode:
        reason = done.stderr.strip() or f"exit status {done.returncode}"
        raise SyncError("internal", f"'{said}': {reason}", "run it by hand to see why")


def _run(command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=_MANAGER_S, stdin=subprocess.DEVNULL
    )
