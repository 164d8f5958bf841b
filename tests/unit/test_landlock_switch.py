"""Whether Landlock is used: the environment and config.toml switch it off, and status says so."""

from __future__ import annotations

import pytest

from agentd import _core, app
from agentd.config import parse
from ctl import status
from proto.control_state import AgentInfo
from proto.errors import SyncError


@pytest.mark.parametrize(
    ("environ", "text", "abi", "expected"),
    [
        ({}, "", 7, "on"),
        ({"SYNCCTL_LANDLOCK": "on"}, "[agent]\nlandlock = true\n", 2, "on"),
        ({"SYNCCTL_LANDLOCK": "off"}, "", 7, "off"),
        ({}, "[agent]\nlandlock = false\n", 7, "off"),
        ({}, "", 0, "absent"),
        ({"SYNCCTL_LANDLOCK": "off"}, "", 0, "absent"),
    ],
)
def test_switch(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], text: str, abi: int, expected: str) -> None:
    monkeypatch.setattr(_core, "landlock_abi", lambda: abi)
    assert app._landlock(parse("c", text), environ) == (expected, abi)
    said = status.text([AgentInfo(1, 2, "0.1", 3, 4, "/c", [], None, expected, abi)])
    words = {"on": f"Landlock is on (ABI {abi})", "off": "Landlock is off", "absent": "Landlock is not there"}
    assert words[expected] in said
    status_line = status._json([AgentInfo(1, 2, "0.1", 3, 4, "/c", [], None, expected, abi)])
    assert f'"landlock":"{expected}","landlock_abi":{abi}' in status_line


def test_a_switch_is_true_or_false() -> None:
    with pytest.raises(SyncError, match=r"c:2: \[agent\] landlock"):
        parse("c", '[agent]\nlandlock = "maybe"\n')
