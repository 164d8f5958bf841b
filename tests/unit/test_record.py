"""proto.record against typing, and what a command may import."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import typing
from typing import Any

import cbor2
import pytest

from proto.codec import cbor2 as codec
from proto.record import NamedTuple


class Ours(NamedTuple):
    """As the messages are."""

    a: int
    b: str = "b"
    c: list[int] | None = None

    @property
    def twice(self) -> int:
        return 2 * self.a


class Theirs(typing.NamedTuple):
    a: int
    b: str = "b"
    c: list[int] | None = None


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, "x", [2]), {}),
    ((1,), {"c": [3]}),
    ((), {"a": 1, "c": [3]}),
    ((), {}),
    ((), {"b": "x"}),
    ((1,), {"a": 2}),
    ((1,), {"d": 2}),
    ((1, "x", None, 4), {}),
]


@pytest.mark.parametrize(("values", "named"), CALLS)
def test_is_made_of_what_typing_s_is_made_of(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    try:
        theirs = Theirs(*values, **named)
    except TypeError:
        with pytest.raises(TypeError, match=r"Ours\(a, b, c\)"):
            Ours(*values, **named)
        return
    ours = Ours(*values, **named)
    assert (ours.a, ours.b, ours.c) == tuple(theirs)
    assert ours._asdict() == theirs._asdict()
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")


def test_is_a_tuple_with_names() -> None:
    ours = Ours(1)
    assert Ours._fields == Theirs._fields
    assert Ours._field_defaults == Theirs._field_defaults
    assert ours._replace(b="x") == (1, "x", None)
    assert ours.twice == 2
    with pytest.raises(TypeError):
        ours._replace(d=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        ours.a = 2  # type: ignore[misc]
    assert not hasattr(ours, "__dict__")
    assert pickle.loads(pickle.dumps(ours)) == copy.copy(ours) == ours
    match ours:
        case Ours(a, b):
            assert (a, b) == (1, "b")
        case _:
            pytest.fail("a pattern without names did not match")


def test_the_codec_is_the_package_s() -> None:
    assert codec.dumps is cbor2.dumps
    assert codec.CBORError is cbor2.CBORError


def test_a_command_imports_nothing_that_costs_as_much_as_itself() -> None:
    hot = (
        "ctl.main, ctl.jobs, ctl.status, ctl.client, ctl.render, proto.control_jobs, proto.control_state, proto.places"
    )
    code = f"import sys, {hot}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env={
        "PYTHONPATH": ":".join(path for path in sys.path if path),
    })  # fmt: skip
    loaded = set(done.stdout.split())
    assert "proto.control_jobs" in loaded
    assert not loaded & {"typing", "re", "enum", "dataclasses", "contextlib", "json", "socket", "pathlib", "cbor2"}
