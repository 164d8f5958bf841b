"""The configuration: what it means, what is refused and how that is said, and that editing leaves the rest alone."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.config import Config, ConfigFile, Host, Ssh, add_pair, load, parse, remove_pair
from agentd.pairs import NewPair
from proto.errors import SyncError
from proto.job import ON_CONFLICT, Location

FULL = """\
# mine
[ssh]
config_file = "/etc/ssh/mine"
transport   = "openssh"
dead_after_s = 5

[host.box]
remote_command = "/opt/syncctl/bin/syncctl"
transport = "stdio"   # no forwarding there

[host."10.0.0.1"]
transport = "asyncssh"

[pair.site]
source = "/home/me/site"
destination = "box:/srv/site"
mirror = true
exclude = [
  ".git/",
  "*.o",
]

# the notes
[pair.notes]
source = "/home/me/notes"
destination = "me@10.0.0.1:notes"
"""


def test_everything_that_can_be_set() -> None:
    config = parse("c.toml", FULL)
    assert config.ssh == Ssh("/etc/ssh/mine", "openssh", 5.0)
    assert config.host("box") == config.host("me@box") == config.host("ssh://me@box:2200")
    assert config.host("box").remote_command == "/opt/syncctl/bin/syncctl"
    assert config.host("else") == Host()
    assert (config.transport("box"), config.transport("me@10.0.0.1"), config.transport("x")) == (
        "stdio", "asyncssh", "openssh",
    )  # fmt: skip
    site = config.pairs["site"]
    assert (site.source, site.destination) == (Location(None, b"/home/me/site"), Location("box", b"/srv/site"))
    assert site.mirror
    assert site.exclude == (".git/", "*.o")


def test_no_file_is_the_default(tmp_path: Path) -> None:
    path = str(tmp_path / "config.toml")
    assert load(path) == Config(path)


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = parse("c", '[ssh]\nconfig_file="~/c"\n[pair.a]\nsource="~/x"\ndestination="b:~/y"\n')
    assert config.ssh.config_file == "/home/me/c"
    assert config.pairs["a"].source.path == b"/home/me/x"
    assert config.pairs["a"].destination.path == b"~/y"


PAIR = '[pair.a]\nsource = "/a"\ndestination = "b:c"\n'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[ssh]\nx = 1\n", 2, ["[ssh] x", "unknown", "config_file, transport, dead_after_s"]),
        ("\n[shh]\n", 2, ["shh", "ssh, host, pair"]),
        ("y = 1", 1, ["y", "unknown"]),
        ("y = " + "9" * 5000, 1, ["digits"]),
        ('[ssh]\n\ntransport = "rsh"', 3, ["transport", "auto, openssh, asyncssh, stdio"]),
        ("[ssh]\ntransport = 1", 2, ["transport", "auto, openssh"]),
        ("[ssh]\ndead_after_s = 0", 2, ["dead_after_s", "from 1 to 3600"]),
        ("[ssh]\ndead_after_s = true", 2, ["dead_after_s"]),
        ("[ssh]\ndead_after_s = nan", 2, ["dead_after_s"]),
        ('[ssh]\nconfig_file = ""', 2, ["config_file", "text"]),
        ('[host.x]\ntransport = "auto"\n[host."y.z"]\ntransport = "no"', 4, ["[host.y.z] transport"]),
        ("[host]\nx = 1", 2, ["x", "table"]),
        ("host = 1", 1, ["host", "table"]),
        ("[pair.a]\nsource = '/a'", 1, ["[pair.a]", "destination is missing"]),
        ("[pair.a]\nsource = 'a'\ndestination='b:c'", 2, ["source", "absolute"]),
        ("[pair.a]\nsource = 'a:b'\ndestination='b:c'", 3, ["both"]),
        ("[pair.a]\nsource = '/a'\ndestination='/a/b'", 3, ["contain"]),
        ("[pair.a]\nsource = '/a'\ndestination='-b:c'", 3, ["not a host"]),
        ("[pair.'a b']\nsource = '/a'\ndestination='b:c'", 1, ["name"]),
        (PAIR + "mirror = 1", 4, ["mirror", "true or false"]),
        (PAIR + "exclude = ['']", 4, ["exclude"]),
        (PAIR + "exclude = 'x'", 4, ["exclude"]),
        (PAIR + "\n[pair.b]\nsource = '/b'\ndestination = 'b:c'", 7, ["pair a"]),
        ("x = ", 1, ["Invalid value"]),
        ("# a\nx = \n", 2, ["Invalid value"]),
    ],
)
def test_errors_say_where_and_what(text: str, line: int, words: list[str]) -> None:
    with pytest.raises(SyncError) as e:
        parse("/c/config.toml", text)
    assert e.value.code == "config"
    assert e.value.message.startswith(f"/c/config.toml:{line}: ")
    for word in words:
        assert word in e.value.message


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"# a\n# \xff\n")
    with pytest.raises(SyncError, match=r"config\.toml:2: not UTF-8"):
        load(str(path))
    with pytest.raises(SyncError, match="Is a directory"):
        load(str(tmp_path))


def test_remove_leaves_every_other_byte(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(FULL)
    config = remove_pair(str(path), "site")
    assert list(config.pairs) == ["notes"]
    start, end = FULL.index("\n[pair.site]"), FULL.index("\n# the notes")
    assert path.read_text() == FULL[:start] + FULL[end:]


def test_remove_refuses_what_it_cannot_cut_out(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for text in (
        "[pair]\na = {source='/a', destination='b:c'}\n",
        "pair.a.source = '/a'\npair.a.destination = 'b:c'\n",
        "pair.a.source = '/a'\npair.a.destination = '''b:c\n[pair.a]\n'''\n",
    ):
        path.write_text(text)
        with pytest.raises(SyncError) as e:
            remove_pair(str(path), "a")
        assert e.value.code == "config"
        assert path.read_text() == text
    with pytest.raises(SyncError) as e:
        remove_pair(str(path), "other")
    assert e.value.code == "no-such-pair"


@pytest.mark.parametrize(
    ("name", "source", "destination"),
    [
        ("site", "/new", "box:/new"),
        ("a b", "/new", "box:/new"),
        ("-a", "/new", "box:/new"),
        ("new", "relative", "box:/new"),
        ("new", "/new", "/new/inside"),
        ("new", "/new", "box:/srv/site"),
        ("new", "x:/new", "box:/new"),
        ("new", "/caf\udce9", "box:/new"),
    ],
)
def test_add_refuses(tmp_path: Path, name: str, source: str, destination: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(FULL)
    with pytest.raises(SyncError) as e:
        add_pair(str(path), NewPair(name, source, destination))
    assert e.value.exit_status == 2
    assert path.read_text() == FULL
    assert list(tmp_path.iterdir()) == [path]


def test_a_bad_file_is_not_edited(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[shh]\n")
    with pytest.raises(SyncError, match=r"config\.toml:1"):
        add_pair(str(path), NewPair("a", "/a", "b:c"))
    assert path.read_text() == "[shh]\n"


def test_the_file_behind_a_symlink_is_changed_and_keeps_its_mode(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("# mine\r\n")
    real.chmod(0o640)
    path = tmp_path / "config.toml"
    path.symlink_to(real.name)
    add_pair(str(path), NewPair("a", "/a", "b:c", True, ["*.o", 'quo"te\\']))
    assert path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert real.read_bytes().count(b"\r\n") == real.read_bytes().count(b"\n")
    assert load(str(path)).pairs["a"].exclude == ("*.o", 'quo"te\\')


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(
    before=st.sampled_from(["", "# only a comment\n", FULL, FULL + "\n\n# end\n"]),
    source=_TEXT,
    exclude=st.lists(_TEXT, max_size=3),
    mirror=st.booleans(),
    watch=st.booleans(),
    on_conflict=st.sampled_from(ON_CONFLICT),
)
def test_add_then_remove_is_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    before: str,
    source: str,
    exclude: list[str],
    mirror: bool,
    watch: bool,
    on_conflict: str,
) -> None:
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_bytes(before.encode())
    config = add_pair(str(path), NewPair("new-one", "/x/" + source, "box:/new", mirror, exclude, watch, on_conflict))
    pair = load(str(path)).pairs["new-one"]
    assert pair == config.pairs["new-one"]
    assert (pair.source_text, list(pair.exclude), pair.mirror) == ("/x/" + source, exclude, mirror)
    assert (pair.watch, pair.on_conflict) == (watch, on_conflict)
    assert path.read_bytes().startswith(before.encode())
    remove_pair(str(path), "new-one")
    assert path.read_bytes() == before.encode()


def test_a_changed_file_is_read_again_and_a_bad_one_reported(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    seen: list[Config] = []
    file = ConfigFile(str(path), seen.append)
    assert file.current().pairs == {}
    path.write_text(FULL)
    assert set(file.current().pairs) == {"site", "notes"}
    assert file.current() is file.current()
    path.write_text(FULL + "[shh]\n")
    assert set(file.current().pairs) == {"site", "notes"}
    assert "shh" in getattr(file.error, "message", "")
    path.write_text("")
    assert file.current().pairs == {}
    assert file.error is None
    file.add_pair(NewPair("a", "/a", "b:c"))
    file.remove_pair("a")
    assert [list(config.pairs) for config in seen] == [["site", "notes"], [], ["a"], []]


def test_how_a_pair_is_watched() -> None:
    text = "[pair.a]\nsource = '/a'\ndestination = 'b:c'\nwatch = true\non_conflict = 'keep-both'\n"
    pair = parse("c.toml", text).pairs["a"]
    assert (pair.watch, pair.on_conflict) == (True, "keep-both")
    with pytest.raises(SyncError, match=r"c\.toml:5: .* on_conflict: overwrite, stop, keep-both are allowed"):
        parse("c.toml", text.replace("keep-both", "merge"))
    pulls = "[pair.a]\nsource = 'b:c'\ndestination = '/a'\nwatch = true\n"
    with pytest.raises(SyncError, match=r"c\.toml:4: .* watch: the source is on another host"):
        parse("c.toml", pulls)
