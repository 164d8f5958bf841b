"""Fixtures of the fault tests: one agent for those who lie to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.hostile import precious_root
from tests.helpers.hosts import Agent, one_host, short_directory, this_account

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def victim() -> Iterator[Agent]:
    """One agent, shared by a module's hostile peers."""
    with short_directory() as directory, one_host(this_account(), directory) as made:
        made.ok("start")
        yield made


@pytest.fixture
def precious(victim: Agent) -> Iterator[Path]:
    """See ``precious_root``."""
    with precious_root(victim) as root:
        yield root
