"""The service files: what systemd and launchd read is what was meant, and nobody else's file is touched."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ctl import services
from ctl.command import agent_command
from proto.errors import SyncError

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = ["/opt/a b/100%/py$thon\\x\"'", "-P", "-c", "import sys; print('$HOME %h', \"\\t;\")", ";", ""]
HOME = '/home/o %h "x" $y\\z/\N{SNOWMAN}'
NAMES = ("agentd.service", "agentd.socket")


def render(name: str, command: list[str], environ: dict[str, str], socket: str = "/run/user/7/syncctl/c.sock") -> str:
    renderer = services.render_plist if name.endswith(".plist") else services.render_unit
    return renderer(services._template(name), command, environ, socket)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("home", [None, "/home/o/s", HOME])
def test_systemd_accepts_the_units(tmp_path: Path, home: str | None) -> None:
    binary = tmp_path / "a b" / "agentd"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    for name in NAMES:
        text = render(name, [str(binary), *HOSTILE[1:]], {"SYNCCTL_HOME": home} if home else {})
        assert "@" not in text
        (tmp_path / name).write_text(text)
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", *(str(tmp_path / name) for name in NAMES)],
        env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    # it exits with 0 on a key that it does not know
    ours = [line for line in done.stderr.splitlines() if "agentd." in line or "Unknown" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_a_unit_quotes_what_it_is_given() -> None:
    lines = render("agentd.service", ["/a b/100%$", "$x", "%h", 'q"\\', ""], {"SYNCCTL_HOME": "/h %"}).splitlines()
    assert 'ExecStart="/a b/100%%$" "$$x" %%h "q\\"\\\\" ""' in lines
    assert 'Environment="SYNCCTL_HOME=/h %%"' in lines
    assert "ListenStream=/s %%/c" in render("agentd.socket", ["/x"], {}, "/s %/c").splitlines()


@pytest.mark.parametrize("name", [*NAMES, "org.syncctl.agentd.plist"])
def test_a_path_that_no_file_can_hold_is_refused(name: str) -> None:
    with pytest.raises(SyncError, match="cannot hold"):
        render(name, ["/x\ny"], {}, "/x\ny")


PLIST: dict[str, type] = {
    "Label": str, "ProgramArguments": list, "EnvironmentVariables": dict, "RunAtLoad": bool, "KeepAlive": dict,
    "ThrottleInterval": int, "ExitTimeOut": int, "ProcessType": str, "Sockets": dict, "SoftResourceLimits": dict,
    "StandardErrorPath": str,
}  # fmt: skip
"""Keys and types of launchd.plist(5)."""


def test_launchd_reads_the_property_list_as_it_was_meant() -> None:
    command = ["/opt/<a> & b/agentd", "]]>", "--x"]
    value: dict[str, Any] = plistlib.loads(
        render("org.syncctl.agentd.plist", command, {"SYNCCTL_HOME": "/h <&>"}, "/s &/c").encode()
    )
    assert {key: type(item) for key, item in value.items()} == PLIST
    assert value["ProgramArguments"] == command
    assert value["EnvironmentVariables"] == {"SYNCCTL_HOME": "/h <&>"}
    assert value["Sockets"] == {"Control": {"SockPathName": "/s &/c", "SockPathMode": 0o600}}
    assert value["KeepAlive"] == {"SuccessfulExit": False}
    assert value["ProcessType"] in ("Background", "Standard", "Adaptive", "Interactive")


def test_nothing_is_imported_from_the_directory_a_command_is_given_in(tmp_path: Path) -> None:
    for name in ("agentd", "trio", "proto"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from here')")
    done = subprocess.run(
        [*agent_command(), "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


class Machine:
    """A person's machine whose service manager is a script that writes down what it is told."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told = tmp_path / "told"
        self.told.touch()
        self.bin = tmp_path / "bin"
        self.bin.mkdir()
        self.units = tmp_path / "home/.config/systemd/user"
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("SYNCCTL_HOME", str(tmp_path / "syncctl"))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        self.manager("")

    def manager(self, script: str, name: str = "systemctl") -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "$*" >>{self.told}\n{script}\n')
        path.chmod(0o755)

    def orders(self) -> list[str]:
        return self.told.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
class TestSystemd:
    def test_enable_installs_and_starts_disable_undoes_it(self, machine: Machine) -> None:
        services.enable()
        services.enable()  # again: nothing of it is in its own way
        assert sorted(path.name for path in machine.units.iterdir()) == sorted(NAMES)
        service = (machine.units / "agentd.service").read_text()
        assert f"SYNCCTL_HOME={os.environ['SYNCCTL_HOME']}" in service
        assert machine.orders()[:4] == [
            "--user show-environment", "--user daemon-reload", "--user enable agentd.service",
            "--user restart agentd.service",
        ]  # fmt: skip
        machine.told.write_text("")
        services.disable()
        assert list(machine.units.iterdir()) == []
        assert machine.orders() == [
            "--user show-environment", "--user disable --now agentd.service agentd.socket", "--user daemon-reload",
        ]  # fmt: skip
        services.disable()

    def test_a_file_of_somebody_else_stays(self, machine: Machine) -> None:
        machine.units.mkdir(parents=True)
        theirs = machine.units / "agentd.service"
        theirs.write_text("[Service]\n")
        for verb in (services.enable, services.disable):
            with pytest.raises(SyncError, match=r"agentd\.service was not written by syncctl"):
                verb()
        assert theirs.read_text() == "[Service]\n"
        assert set(machine.orders()) == {"--user show-environment"}

    def test_what_the_manager_refuses_is_said(self, machine: Machine) -> None:
        machine.manager('case "$*" in *enable*) echo "no way" >&2; exit 1;; esac')
        with pytest.raises(SyncError, match=r"'systemctl --user enable agentd\.service': no way"):
            services.enable()

    def test_without_a_manager_nothing_is_installed(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        machine.manager("exit 1")
        started: list[bool] = []

        class Connected:
            def close(self) -> None:
                started.append(True)

        monkeypatch.setattr("ctl.client.connect", lambda *_, start: Connected() if start else None)
        services.enable()
        services.disable()
        assert started == [True]
        assert capsys.readouterr().out.count("no service manager runs for you here") == 2
        assert not machine.units.exists()


def test_launchd_is_asked_in_its_own_words(machine: Machine) -> None:
    machine.manager("", "launchctl")
    manager = services.find_manager(os.environ, 501, "darwin")
    assert manager is not None
    assert manager.names == ("org.syncctl.agentd.plist",)
    assert manager.directory == f"{os.environ['HOME']}/Library/LaunchAgents"
    assert manager.taken_in[-1][:3] == ("launchctl", "bootstrap", "gui/501")
    machine.manager("exit 113", "launchctl")
    assert services.find_manager(os.environ, 501, "darwin") is None
