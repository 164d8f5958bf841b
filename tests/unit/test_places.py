"""Where an agent keeps what: one pure function, by vectors, and against platformdirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from proto.places import SUN_PATH_MAX, Places, lock_path, places, recorded_sockets

LINUX = {"HOME": "/home/o"}
LONG = "/" + "x" * 120

# environ, platform, directories that are there -> config, state, runtime
VECTORS = [
    (LINUX, "linux", (), ("/home/o/.config/syncctl/config.toml", "/home/o/.local/state/syncctl",
                          "/home/o/.local/state/syncctl/run")),
    (LINUX, "linux", ("/run/user/7",), (None, None, "/run/user/7/syncctl")),
    ({**LINUX, "XDG_RUNTIME_DIR": "/x"}, "linux", ("/x", "/run/user/7"), (None, None, "/x/syncctl")),
    # a session's that is gone
    ({**LINUX, "XDG_RUNTIME_DIR": "/x"}, "linux", ("/run/user/7",), (None, None, "/run/user/7/syncctl")),
    ({**LINUX, "XDG_RUNTIME_DIR": "/x"}, "linux", (), (None, None, "/home/o/.local/state/syncctl/run")),
    # relative ones and empty ones do not count (XDG Base Directory)
    ({**LINUX, "XDG_CONFIG_HOME": "c", "XDG_STATE_HOME": ""}, "linux", (),
     ("/home/o/.config/syncctl/config.toml", "/home/o/.local/state/syncctl", None)),
    ({**LINUX, "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s"}, "linux", (),
     ("/c/syncctl/config.toml", "/s/syncctl", "/s/syncctl/run")),
    ({"HOME": "/Users/o"}, "darwin", (),
     ("/Users/o/Library/Application Support/syncctl/config.toml", "/Users/o/Library/Application Support/syncctl",
      "/Users/o/Library/Application Support/syncctl/run")),
    ({**LINUX, "SYNCCTL_HOME": "/h", "XDG_RUNTIME_DIR": "/x", "XDG_STATE_HOME": "/s"}, "linux", ("/x",),
     ("/h/config.toml", "/h/state", "/h/run")),
    ({"SYNCCTL_HOME": "/h/../g/"}, "darwin", (), ("/g/config.toml", "/g/state", "/g/run")),
    ({"SYNCCTL_HOME": LONG}, "linux", (), (f"{LONG}/config.toml", f"{LONG}/state", "/tmp/syncctl-7-d0bf24d535d78943")),
]  # fmt: skip


@pytest.mark.parametrize(("environ", "platform", "there", "expected"), VECTORS)
def test_vectors(
    environ: dict[str, str], platform: str, there: tuple[str, ...], expected: tuple[str | None, ...]
) -> None:
    found = places(environ, 7, platform, there.__contains__)
    for value, wanted in zip((found.config, found.state, found.runtime), expected, strict=True):
        assert wanted in (None, value)
    assert found.control_socket == f"{found.runtime}/control.sock"
    assert found.peer_socket == f"{found.runtime}/peer.sock"
    assert found.log == f"{found.state}/agentd.log"
    assert lock_path(found.state).startswith(f"{found.state}/agent-")


@pytest.mark.parametrize("platform", ["linux", "darwin", "freebsd14"])
def test_a_socket_s_path_always_fits(platform: str) -> None:
    for length in range(1, 200):
        found = places({"SYNCCTL_HOME": "/" + "\N{SNOWMAN}" * length}, 2**32 - 2, platform, lambda _: False)
        assert len(os.fsencode(found.runtime)) + len("/link-12345.c.0123456789abcdef") <= SUN_PATH_MAX.get(
            platform, 103
        )


def test_long_homes_that_differ_do_not_share_a_directory() -> None:
    found = {places({"SYNCCTL_HOME": f"{LONG}{n}"}, 7, "linux", lambda _: False).runtime for n in range(1000)}
    assert len(found) == 1000


@pytest.mark.parametrize("variables", [{}, {"XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s"}, {"XDG_STATE_HOME": "s"}])
def test_platformdirs_says_the_same(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("SYNCCTL_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ours = places(os.environ, os.geteuid(), sys.platform)
    theirs = platformdirs.PlatformDirs("syncctl", appauthor=False)
    assert os.path.dirname(ours.config) == theirs.user_config_dir
    assert ours.state == theirs.user_state_dir


def test_the_command_line_can_afford_its_import() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import sys, proto.places; print(*sys.modules)"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    dear = {"platformdirs", "json", "dataclasses", "argparse", "socket", "pathlib", "subprocess", "hashlib"}
    assert dear.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"control_socket": "/c"}', "\N{SNOWMAN}" * 9])
def test_a_lock_file_that_says_nothing_of_use(tmp_path: Path, text: str | None) -> None:
    here = Places("", str(tmp_path), "", "", "", "")
    if text is not None:
        Path(lock_path(here.state)).write_text(text)
    assert recorded_sockets(here) is None
