"""What the engines are told of a session's link."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import _core
from agentd.sync.engines import CrateEngines, Knowing, Tuning
from proto.peer import Open

if TYPE_CHECKING:
    from pathlib import Path

TUNING = Tuning()


@pytest.mark.parametrize(
    ("rtt_us", "delta_min"),
    [(None, TUNING.delta_min), (300, TUNING.delta_min), (50_000, TUNING.far_delta_min)],
)
def test_smaller_files_are_worth_a_delta_over_a_long_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rtt_us: int | None, delta_min: int
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(_core, "Receiver", lambda root, **keywords: told.update(keywords, root=root))
    opening = Open(bytes(16), 0, "receiver", bytes(tmp_path), 0, 0, rtt_us=rtt_us)
    CrateEngines(TUNING).receiver(bytes(tmp_path), opening, 1, Knowing(), arrow="<", temp_tag="00000000")
    assert told["delta_min"] == delta_min
