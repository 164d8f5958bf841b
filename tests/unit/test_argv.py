"""Command lines: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ctl.argv import VERBS, absolute, location, parse
from ctl.main import main
from ctl.usage import help_text
from proto.errors import SyncError
from proto.job import Location

if TYPE_CHECKING:
    from pathlib import Path


def test_options_anywhere_in_either_form() -> None:
    operands, values = parse(
        "push",
        ["--delete", "a", "--exclude=*.o", "-n", "b", "--exclude", "--x", "--timeout", "1.5", "--max-delete=7", "-i"],
    )
    assert operands == ["a", "b"]
    assert values == {
        "delete": True, "exclude": [b"*.o", b"--x"], "dry_run": True, "timeout": 1.5, "max_delete": 7, "itemize": True,
    }  # fmt: skip


def test_compression_in_all_its_forms() -> None:
    for words, meant in (["-z"], "always"), (["--no-compress"], "never"), (["--compress", "auto"], "auto"):
        assert parse("sync", words) == ([], {"compress": meant})


def test_what_follows_two_dashes_is_an_operand() -> None:
    assert parse("push", ["--", "--delete", "-x"]) == (["--delete", "-x"], {})
    assert parse("sync", ["-"]) == (["-"], {})


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["push", "a", "b", "--delte"], "unknown option --delte", "did you mean --delete?"),
        (["push", "a", "b", "-y"], "unknown option -y", "syncctl push --help"),
        (["push", "a", "b", "--delete=yes"], "--delete takes no value", "syncctl push --help"),
        (["push", "a", "b", "--exclude"], "--exclude wants a value", "syncctl push --help"),
        (["push", "a", "b", "--exclude="], "--exclude wants a pattern", "syncctl push --help"),
        (["push", "a", "b", "--compress=much"], "--compress is auto, never, always, not much", "syncctl push --help"),
        (["push", "a", "b", "--timeout", "soon"], "not soon", "syncctl push --help"),
        (["push", "a", "b", "--timeout", "nan"], "not nan", "syncctl push --help"),
        (["push", "a", "b", "--timeout", "0"], "not 0", "syncctl push --help"),
        (["push", "a", "b", "--timeout", "inf"], "not inf", "syncctl push --help"),
        (["push", "a", "b", "--max-delete", "-1"], "not -1", "syncctl push --help"),
        (["push", "a", "b", "--max-delete", "\u0663"], "not \u0663", "syncctl push --help"),
        (["push"], "operands are missing", "syncctl push --help"),
        (["push", "a"], "an operand is missing", "syncctl push --help"),
        (["push", "a", "b", "c\x1b"], "unexpected operand c\\#033", "syncctl push --help"),
        (["list", "x"], "unexpected operand x", "syncctl list --help"),
        (["add", "a", "b", "c", "--on-conflict", "merge"], "is overwrite, stop, keep-both, not merge", "syncctl add"),
        (["puhs", "a", "b"], "unknown command puhs", "did you mean push?"),
        (["\x1b[2J"], "unknown command \\#033[2J", "syncctl --help"),
        (["help", "nothing"], "unknown command nothing", "syncctl --help"),
        (["push", "a:b", "c"], "push: the source a:b is on another host", "'syncctl pull'"),
        (["push", "a:b", "c:d"], "on another host", ""),
        (["pull", "a", "b:c"], "pull: the destination b:c is on another host", "'syncctl push'"),
        (["push", "a", "-b:c"], "unknown option -b:c", ""),
        (["push", "a", "--", "-b:c"], "not a host's name", "./a:b"),
        (["push", "", "b:c"], "empty path", ""),
    ],
)
def test_usage_errors(words: list[str], said: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("syncctl: ")
    assert said in first
    assert second.startswith("  ")
    assert hint in second


def test_no_words_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: syncctl COMMAND")


def test_an_error_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", "a", "--json"]) == 2
    assert '"exit":2' in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_overview(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    for verb in VERBS:
        assert verb in out


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_that_names_its_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert out == help_text(verb)
    assert out.startswith(f"usage: syncctl {verb}")
    for option in VERBS[verb][0]:
        assert "--" + option in out or option == "hold"
    assert max(map(len, out.splitlines())) <= 120


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == main(["version"]) == 0
    assert capsys.readouterr().out.startswith("syncctl 0.")


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    here = os.fsencode(tmp_path)
    for typed, meant in {
        b"a": here + b"/a", b"./a": here + b"/a", b".//./a": here + b"/a", b".": here, b"./": here,
        b"..": here + b"/..", b"/x": b"/x", b"~": b"/home/me", b"~/x": b"/home/me/x", b"./~": here + b"/~",
    }.items():  # fmt: skip
        assert absolute(typed) == meant
    assert location("./a:b") == Location(None, here + b"/a:b")
    assert location("box:a") == Location("box", b"a")
    assert location(os.fsdecode(b"caf\xe9/")) == Location(None, here + b"/caf\xe9")


def test_a_current_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SyncError, match="current directory is gone"):
        absolute(b"a")
