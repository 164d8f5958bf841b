"""The bench's arithmetic: medians, ratios, bounds, the gate, the tables and charts made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from bench import report, room
from bench.cases import CASES, selected
from bench.charts import chart, kind
from bench.figures import METRICS, Bound, Run, figures, medians
from bench.gate import allowed, baseline, regressions
from bench.publish import BEGIN, END, between_marks, conditions
from bench.trees import TREES
from bench.verify import allocated, differences, link_groups
from tests.helpers.oracle import RSYNC

if TYPE_CHECKING:
    from pathlib import Path


def _runs(contender: str, seconds: list[float], **cost: float) -> list[Run]:
    return [Run(contender, number, {"seconds": value, **cost}) for number, value in enumerate(seconds)]


def _document(ours: float, theirs: float = 1.0, bound: float = 0.5) -> dict[str, Any]:
    measured = medians(_runs("syncctl", [9.0, ours], rss_mb=40.0) + _runs("rsync", [9.0, theirs]))
    bounds = [Bound("seconds", "rsync", bound), Bound("rss_mb", None, 100.0)]
    rows = [figure._asdict() for figure in figures("syncctl", measured, bounds)]
    case = {
        "name": "one", "what": "a tree: first sync", "verdict": "ok", "skipped": None, "wrong": [],
        "measured": measured, "figures": rows,
    }  # fmt: skip
    return {"cases": [case]}


def test_medians_leave_out_the_warm_up() -> None:
    found = medians(_runs("rsync", [100.0, 3.0, 1.0, 2.0]))
    assert found == {"rsync": {"seconds": {"median": 2.0, "least": 1.0, "most": 3.0}}}


def test_figures_are_ratios_with_their_bounds_first() -> None:
    measured = medians(
        _runs("syncctl", [9.0, 1.0], literal=12.0)
        + _runs("rsync", [9.0, 4.0], literal=10.0)
        + _runs("floor: x", [9, 2])
    )
    bounds = [Bound("literal", "rsync", 1.1), Bound("seconds", "rsync", 0.3), Bound("rss_mb", None, 5)]
    found = figures("syncctl", measured, bounds)
    assert [(row.name, row.value, row.bound, row.held) for row in found] == [
        ("literal / rsync", 1.2, 1.1, False),
        ("seconds / rsync", 0.25, 0.3, True),
        ("rss_mb", None, 5, False),
        ("seconds / floor: x", 0.5, None, True),
    ]


def test_what_was_not_measured_holds_no_bound() -> None:
    assert [figure.held for figure in figures("syncctl", {}, [Bound("seconds", "rsync", 1.0)])] == [False]


@pytest.mark.parametrize(("was", "bound", "most"), [(0.2, None, 0.27), (0.4, 0.45, 0.45), (0.6, 0.45, 0.77)])
def test_the_gate_allows_a_quarter_but_not_to_lose_a_bound(was: float, bound: float | None, most: float) -> None:
    assert allowed(was, bound) == pytest.approx(most)


def test_the_gate_finds_what_became_worse() -> None:
    base = baseline(_document(0.3))
    assert base == {"one": {"seconds / rsync": 0.3, "rss_mb": 40.0}}
    assert regressions(_document(0.36), base) == []
    [worse] = regressions(_document(0.45), base)
    assert (worse.case, worse.figure, worse.value) == ("one", "seconds / rsync", 0.45)
    assert "one: seconds / rsync: 0.450, baseline 0.300" in str(worse)


def test_a_void_case_does_not_pass_the_gate_and_a_skipped_one_does() -> None:
    base = baseline(_document(0.3))
    document = _document(0.3)
    document["cases"][0] |= {"verdict": "void", "wrong": ["differs"], "measured": {}, "figures": []}
    assert [worse.figure for worse in regressions(document, base)] == ["differs"]
    document["cases"][0]["verdict"] = "skipped"
    assert regressions(document, base) == []


def test_every_bound_is_of_somebody_who_takes_part_in_the_case() -> None:
    for case in CASES.values():
        names = {contender.name for contender in case.contenders}
        assert {bound.against for bound in case.bounds} <= {None, *names}, case.name
        assert case.tree is None or "syncctl" in names
        assert {bound.metric for bound in case.bounds} <= set(METRICS)


def test_cases_are_selected_by_name_by_tree_and_by_set() -> None:
    assert [case.name for case in selected(["small-first", "half"], full=False)] == ["small-first", "wan-half"]
    short, everything = selected(None, full=False), selected(None, full=True)
    assert set(everything) == set(CASES.values())
    assert short == [case for case in everything if case.quick] != []


def test_a_case_without_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["many-disk"]
    assert case.tree is not None
    huge = case.tree._replace(each_bytes=1 << 60)
    monkeypatch.setattr(room, "file_system", lambda _: "ext2/ext3")
    assert "has room for" in (room.lacking(huge, [case], tmp_path) or "")
    monkeypatch.setattr(room, "file_system", lambda _: "tmpfs")
    assert "is in memory" in (room.lacking(case.tree, [case], tmp_path) or "")


def test_tables_have_a_cell_for_every_column() -> None:
    document = _document(0.123)
    document["cases"].append({**document["cases"][0], "skipped": "no room", "verdict": "skipped"})
    lines = report.tables(document).splitlines()
    assert {line.count("|") for line in lines if line} == {12, 8}
    assert "| 123 ms (123 ms - 123 ms)" in lines[2]
    assert "skipped: no room" in lines[3]


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [("cpu_s", 0.25, "250 ms"), ("seconds", 2.5, "2.50 s"), ("rss_mb", 82.4, "82 MB"), ("literal", 1950, "1,950 B"),
     ("wire", 10_080_000, "10.08 MB")],
)  # fmt: skip
def test_amounts_are_said_in_units_that_fit(metric: str, value: float, said: str) -> None:
    assert report.amount(metric, value) == said


def test_a_chart_is_svg_with_a_bar_for_each_contender() -> None:
    text = chart("First <sync>", _document(0.25)["cases"])
    root = ET.fromstring(text)
    bars = {bar.get("class"): int(bar.get("width", "0")) for bar in root.iter("{http://www.w3.org/2000/svg}rect")}
    assert bars["ours"] == pytest.approx(bars["reference"] / 4, abs=1)
    assert "prefers-color-scheme: dark" in text


def test_every_contender_has_a_kind_of_bar() -> None:
    names = ["syncctl", "rsync", "rsync, aes128-gcm", "floor: floor.c", "sy"]
    assert [kind(name) for name in names] == ["ours", "reference", "cipher", "floor", "peer"]


def test_a_page_gets_its_section_between_the_marks() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert between_marks(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="no marks"):
        between_marks("nothing", "new")


def test_a_page_says_how_often_and_on_how_busy_a_machine() -> None:
    cases = [{"rounds": 5, "load_1min": 0.31}, {"rounds": 7, "load_1min": 2.0}]
    assert conditions(cases) == "Medians of 5 to 7 runs; load average before the cases 0.3 to 2.0."


@pytest.mark.skipif(RSYNC is None, reason="rsync is not installed")
def test_hard_links_and_holes_are_looked_at(tmp_path: Path) -> None:
    for name in ("source", "destination"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(b"x" * 5000)
    (tmp_path / "source/b").hardlink_to(tmp_path / "source/a")
    (tmp_path / "destination/b").write_bytes(b"x" * 5000)
    assert link_groups(tmp_path / "source") == {frozenset({"a", "b"})}
    assert link_groups(tmp_path / "destination") == set()
    assert allocated(tmp_path / "destination") >= 10_000
    assert differences(tmp_path / "source", tmp_path / "destination", TREES["links"])
