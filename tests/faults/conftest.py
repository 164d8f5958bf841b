"""Fixtures of the fault tests: one agent for those who lie to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.hostile import precious_root
from tests.helpers.hosts import Agent, one_host, short_directory, this_account

if TYPE_CHECKING:
    from collections.abc import Iterator

RSS_MAX_MIB = 300
"""Whatever peers do."""


@pytest.fixture(scope="module")
def victim() -> Iterator[Agent]:
    """One agent, shared by a module's hostile peers."""
    with short_directory() as directory, one_host(this_account(), directory) as made:
        made.ok("start")
        yield made
        if sys.platform == "linux":
            assert peak_rss_mib(made.pid) < RSS_MAX_MIB


def peak_rss_mib(pid: int) -> float:
    """The most memory that it ever held."""
    said = Path(f"/proc/{pid}/status").read_text()
    return int(said.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.fixture
def precious(victim: Agent) -> Iterator[Path]:
    """See ``precious_root``."""
    with precious_root(victim) as root:
        yield root
