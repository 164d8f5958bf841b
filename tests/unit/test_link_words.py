"""Hosts that ssh may be given, the remote command, and what ssh's words mean."""

import os
import subprocess
from pathlib import Path

import pytest

from agentd.links.destination import Destination, parse_destination, remote_shell_command
from agentd.links.diagnose import explain_silence, explain_ssh
from proto.errors import SyncError
from proto.hold import Failed, LineScanner


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("box", Destination("box")),
        ("me@box.example", Destination("box.example", "me")),
        ("a@b@box", Destination("box", "a@b")),
        ("[fe80::1%eth0]", Destination("fe80::1%eth0")),
        ("fe80::1", Destination("fe80::1")),
        ("ssh://box", Destination("box")),
        ("ssh://me@box:2222", Destination("box", "me", 2222)),
        ("ssh://[::1]:22", Destination("::1", None, 22)),
        ("ssh://me@[::1]", Destination("::1", "me")),
    ],
)
def test_destinations(text: str, expected: Destination) -> None:
    assert parse_destination(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "-oProxyCommand=id", "me@-x", "-l@box", "@box", "me@", "a b", "a\nb", "a\0b", "a;b", "$(id)", "`id`", "a|b",
        "x\u202ey",        "ssh://box:", "ssh://box:0", "ssh://box:65536", "ssh://box:99999999999999", "ssh://box:x", "ssh://",
    ],
)  # fmt: skip
def test_hosts_that_are_refused(text: str) -> None:
    with pytest.raises(SyncError) as caught:
        parse_destination(text)
    assert caught.value.code == "usage"
    assert caught.value.message.isprintable()


def run_by(shell: str, command: str, home: Path) -> bytes:
    environ = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    return subprocess.run([shell, "-c", command], env=environ, capture_output=True, check=False, timeout=10).stdout


def install(where: Path) -> None:
    where.mkdir(parents=True)
    script = where / "syncctl"
    script.write_text('#!/bin/sh\necho "$0" "$@"\n')
    script.chmod(0o755)


@pytest.mark.parametrize("shell", [s for s in ("/bin/sh", "/bin/bash", "/bin/dash") if os.path.exists(s)])
@pytest.mark.parametrize(
    "place",
    [
        ".local/bin",
        "bin",
        ".local/share/pipx/venvs/syncctl/bin",
        ".local/pipx/venvs/syncctl/bin",
        ".local/share/uv/tools/syncctl/bin",
    ],
)
def test_the_remote_command_is_found(shell: str, place: str, tmp_path: Path) -> None:
    home = tmp_path / "a home"
    install(home / place)
    said = run_by(shell, remote_shell_command("start --hold"), home)
    assert said.decode() == f"{home / place / 'syncctl'} start --hold\n"


def test_the_remote_command_is_missing(tmp_path: Path) -> None:
    for configured in (None, "/nowhere/syncctl", str(tmp_path)):
        said = run_by("/bin/sh", remote_shell_command("relay", configured), tmp_path)
        failed = LineScanner().feed_untrusted(said)
        assert isinstance(failed, Failed)
        assert failed.code == "remote-missing"


def test_a_configured_command_may_hold_quotes(tmp_path: Path) -> None:
    install(tmp_path / "it's here")
    said = run_by("/bin/sh", remote_shell_command("relay", f'env X=1 "{tmp_path}/it\'s here/syncctl"'), tmp_path)
    assert said.decode() == f"{tmp_path}/it's here/syncctl relay\n"


NO_AGENT: dict[str, str] = {}


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        ((b"No ED25519 host key is known for box and you have requested strict checking.\r\n"
         b"Host key verification failed.\r\n"), "host-key-unknown"),
        ((b"@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\nIT IS POSSIBLE\r\n"
         b"Host key verification failed.\r\n"), "host-key-changed"),
        ((b"@       WARNING: REVOKED HOST KEY DETECTED!               @\r\n"
         b"Host key 127.0.0.1 was marked as revoked.\r\n"), "host-key-changed"),
        (b"welcome\nme@box: Permission denied (publickey,password).\r\n", "auth-refused"),
        (b"Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures\r\n", "auth-refused"),
        (b"ssh: Could not resolve hostname box: Name or service not known\r\n", "unreachable"),
        (b"ssh: connect to host box port 22: Connection refused\r\n", "unreachable"),
        (b"kex_exchange_identification: Connection closed by remote host\r\n", "unreachable"),
        (b"/home/me/.ssh/config: line 3: Bad configuration option: foo\r\n", "config"),
        (b"", "unreachable"),
    ],
)  # fmt: skip
def test_what_ssh_says(stderr: bytes, code: str) -> None:
    assert explain_ssh("box", stderr, NO_AGENT).code == code


def test_hostile_words_stay_words() -> None:
    error = explain_ssh("box", b"\x1b]0;owned\x07\xff: Permission denied (publickey).", NO_AGENT)
    assert error.message.isprintable()
    assert explain_silence("box", 1, b"\x1b[2J", b"").message.isprintable()


def test_a_refused_key_says_whether_the_agent_was_seen(tmp_path: Path) -> None:
    denied = b"me@box: Permission denied (publickey)."
    assert "SSH_AUTH_SOCK is not set" in explain_ssh("box", denied, {}).message
    gone = {"SSH_AUTH_SOCK": str(tmp_path / "gone")}
    assert "does not answer" in explain_ssh("box", denied, gone).message
