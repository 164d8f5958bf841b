"""Paths are opened and joined in the crate's ``beneath`` module, and nowhere else: what else names a file says why."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parents[2]
CRATE = HERE / "core/src"

HOME = re.compile(r"beneath(/\w+)?\.rs")
"""Where names are opened and joined."""

TESTS = re.compile(r"(.*/)?(tests|live|live_sessions|model)\.rs")

# Whatever takes a path, or a name in a directory. Calls on open files alone are no concern of this.
REACHES = re.compile(
    r"""
      std::fs | std::os::unix::fs | std::path | \bPath(Buf)?\b | std::env | std::process::Command
    | \bCWD\b | \blibc::(?!c_|E[A-Z]|O_|S_|SYS_)[a-z_]+\(
    | rustix::fs::(?!fstat\b|fstatfs\b|fstatvfs\b|seek\b|fallocate\b|ftruncate\b|fadvise\b|copy_file_range\b|\{|
                     f?sync(fs)?\b|SeekFrom\b|FallocateFlags\b|Advice\b|inotify\b|Mode\b|OFlags\b|CWD\b)\w+
    | \b(openat2?|(stat|mkdir|unlink|link|symlink|chmod|chown|utimens|readlink|mknod)at|renameat\w*)\(
    | inotify::add_watch\(
    | \bjoin\(&b'/'\)
    """,
    re.VERBOSE,
)

ALLOWED = {
    "buffer.rs": {"libc::malloc_trim(": "freed memory goes back to the system; no path"},
    "failpoint.rs": {'std::env::var("SYNCCTL_FAILPOINT")': "a switch of tests; no path"},
    "landlock.rs": {
        'rustix::fs::open(c"/"': "the probe: what a confined thread has to be refused",
        "libc::syscall(": "Landlock has no wrapper; no path goes into it",
        "libc::prctl(": "no new privileges for the thread; no path goes into it",
    },
    "tree/root.rs": {'rustix::fs::statx(root.fd(), c""': "an open directory's own birth time"},
    "tree/state.rs": {"/proc/sys/fs/inotify/max_user_watches": "a fixed path: the limit that people are told of"},
    "tree/watch.rs": {"inotify::add_watch(": "a held directory's link in /proc"},
    "tree/saved.rs": {"": "the saved index, in the agent's own state directory; threads of engines never come here"},
    "tree/index.rs": {"names.join(&b'/')": "a directory's path of the index, for `beneath` to open"},
}
"""Module -> what a line may contain after all (everything, for ""), and why."""


def code(path: Path) -> str:
    """Of a module, what is compiled into the extension; comments apart."""
    text = re.split(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*mod \w+ \{", path.read_text())[0]
    return re.sub(r"//[^\n]*", "", text)


def modules() -> dict[str, str]:
    names = (str(path.relative_to(CRATE)) for path in sorted(CRATE.rglob("*.rs")))
    return {name: code(CRATE / name) for name in names if not HOME.fullmatch(name) and not TESTS.fullmatch(name)}


def found() -> dict[str, list[str]]:
    lines = {name: [line.strip() for line in text.splitlines()] for name, text in modules().items()}
    return {name: [line for line in those if REACHES.search(line)] for name, those in lines.items()}


def test_no_path_is_opened_or_joined_outside_of_beneath() -> None:
    wrong = [
        f"core/src/{name}: {line}"
        for name, lines in found().items()
        for line in lines
        if not any(part in line for part in ALLOWED.get(name, {}))
    ]
    assert not wrong, "use core/src/beneath, or say here why not:\n" + "\n".join(wrong)


def test_every_exception_is_still_one() -> None:
    lines = found()
    for name, parts in ALLOWED.items():
        for part in parts:
            assert any(part in line for line in lines[name]), (name, part)


def test_the_rule_sees_what_it_is_about() -> None:
    for line in (
        "std::fs::read(path)", "use std::fs::OpenOptions;", "Path::new(x)", "rustix::fs::openat(dir, name)",
        "rustix::fs::unlinkat(dir, name, flags)", "libc::open(path)", 'openat(fd, "x")', "[dir, name].join(&b'/')",
    ):  # fmt: skip
        assert REACHES.search(line), line
    for line in ("rustix::fs::fstat(file)", "libc::EACCES", "beneath::open_read_at(&dir, name)", "std::process::id()"):
        assert not REACHES.search(line), line


PYTHON = HERE / "agentd"
JOINS = re.compile(
    r"os\.(path\.join|scandir|listdir|f?walk|unlink|rename|replace|rmdir|mkdir|makedirs|link|symlink|chmod|utime)\("
)
OPENS = {
    "app.py": "the agent's own state directory",
    "config.py": "config.toml and its folder",
    "control/targets.py": "what a person named on the command line, on this machine",
    "links/asyncssh_link.py": "the agent's own runtime directory",
    "links/links.py": "the agent's own runtime directory",
    "links/openssh.py": "the agent's own runtime directory",
    "paths.py": "the agent's own runtime directory",
    "sockets.py": "the agent's own sockets",
    "store.py": "the agent's own state",
    "sync/roots.py": "a root's own path, which was named as a whole",
    "tree/trees.py": "saved indexes, in the agent's own state directory",
    "watch/git.py": "git's own marker files in a watched root; only their times are looked at",
    "watch/watcher.py": "whether what events named in a watched root is gone; nothing is opened",
}


def test_python_joins_no_name_of_a_peers() -> None:
    """What is below a root is the crate's: Python names the agent's own files, and roots as a whole."""
    users = {str(path.relative_to(PYTHON)) for path in PYTHON.rglob("*.py") if JOINS.search(path.read_text())}
    assert users == OPENS.keys()


def test_only_a_new_file_is_opened_for_writing_alone() -> None:
    # A confined thread may write to what exists wherever it may read it; see Rules::new in landlock.rs.
    text = "\n".join(code(path) for path in sorted(CRATE.rglob("*.rs")))
    assert text.count("WRONLY") == 1
    assert "create(dir, name, OFlags::WRONLY)" in text
    assert "let flags = access | OFlags::CREATE | OFlags::EXCL" in text
