"""Two joined services, and the roots of a job between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.fake_agents import Joined, open_joined

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def roots(tmp_path: Path) -> tuple[bytes, bytes]:
    (tmp_path / "src").mkdir()
    (tmp_path / "dst").mkdir()
    return bytes(tmp_path / "src"), bytes(tmp_path / "dst")


@pytest.fixture
async def joined() -> AsyncIterator[Joined]:
    async with open_joined() as made:
        yield made
