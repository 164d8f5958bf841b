"""Networks that are slow, lossy, far away, silent or gone: everything arrives, and nobody waits for them in vain.

The agent here and its ssh are in one network namespace, sshd and the agent there in another (tests.helpers.tun).
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Self

import pytest

from tests.helpers.editor import Editor
from tests.helpers.hosts import Hosts, our_files, short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.pairs import pair_of
from tests.helpers.sshd import SSHD
from tests.helpers.trees import TreeBuilder
from tests.helpers.trouble import MIB, Result, contents, healthy, read_result, run_job, strike, torn, victims, within
from tests.helpers.tun import BLACK_HOLE, CLEAR, CannotError, Network, Weather

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.skipif(SSHD is None, reason="sshd is not installed"), pytest.mark.timeout(180)]

DEAD_AFTER_S = 5
NOTICE_SLACK_S = 3.0
"""Over DEAD_AFTER_S, on a machine that has other things to do."""

JOB_S = 90
ANSWER_S = 1.0
"""What a person waits for an answer at most, whatever the network does; of the median, for machines are busy too."""

MBIT = 1e6 / 8


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    try:
        made = Network(seed=5)
    except CannotError as e:
        pytest.skip(str(e))
    with made:
        yield made


@pytest.fixture(scope="module")
def shared(network: Network) -> Iterator[Hosts]:
    with (
        short_directory() as directory,
        two_hosts(this_account(), directory, ssh=f"dead_after_s = {DEAD_AFTER_S}", network=network) as made,
    ):
        yield made
        network.set(CLEAR)


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as made:
        yield made


@pytest.fixture
def hosts(shared: Hosts, network: Network, place: Path) -> Iterator[Hosts]:
    """The link is up, and the weather fine; so it is afterwards."""
    network.set(CLEAR)
    (place / "little").mkdir()
    warm = run_job(shared.here, "push", place / "little", f"box:{place / 'arrived'}")
    assert warm.status == 0, warm
    yield shared
    network.set(CLEAR)
    healthy(shared.here, shared.there)


def push(hosts: Hosts, place: Path) -> Result:
    ended = run_job(hosts.here, "push", place / "source", f"box:{place / 'destination'}", "--delete", timeout=JOB_S)
    assert ended.status == 0, f"{ended}\n{hosts.here.log_tail()}"
    assert_same(place / "source", place / "destination")
    assert not our_files(place / "destination")
    return ended


def build(place: Path, files: int, large: int = 0) -> None:
    with TreeBuilder(place / "source", files) as tree:
        for number in range(files):
            tree.file(b"dir%d/file%d" % (number % 10, number), tree.noise(1000))
        if large:
            tree.file(b"large", tree.noise(large))


class Asked:
    """How long the agent here takes to tell how it is, again and again."""

    def __init__(self, hosts: Hosts) -> None:
        self._editor = Editor(hosts.here)
        self._seconds: list[float] = []

    def __enter__(self) -> Self:
        self._editor.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._editor.__exit__()
        if self._seconds:
            median = sorted(self._seconds)[len(self._seconds) // 2]
            print(
                f"status: {len(self._seconds)} x, median {median * 1000:.0f} ms, {max(self._seconds) * 1000:.0f} most"
            )
            assert median < ANSWER_S

    def link(self) -> str:
        """The state of the link to the box, as status has it."""
        begun = time.monotonic()
        answer = self._editor.ask("status")
        self._seconds.append(time.monotonic() - begun)
        (link,) = answer.of("link-info")
        return str(link["state"])


@contextlib.contextmanager
def under_way(hosts: Hosts, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A push that is in the middle of a file."""
    words = ("push", place / "source", f"box:{place / 'destination'}", "--delete", "--json")
    process = hosts.here.popen(*words)
    try:
        begun = lambda: bool(our_files(place / "destination")) or process.poll() is not None  # noqa: E731
        within(20, begun, lambda: "it never began")
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


FAULTS = ["link down", "nothing arrives there", "nothing arrives here"]


@contextlib.contextmanager
def gone(network: Network, fault: str) -> Iterator[None]:
    """Within, nothing gets through, or nothing in one direction."""
    if fault == "link down":
        network.near.link("down")
    else:
        (network.near if fault == "nothing arrives there" else network.far).weather = BLACK_HOLE
    try:
        yield
    finally:
        if fault == "link down":
            network.near.link("up")
        network.set(CLEAR)


@pytest.mark.fault("F3")
@pytest.mark.parametrize("fault", FAULTS)
def test_the_network_is_gone_for_a_while(hosts: Hosts, network: Network, place: Path, fault: str) -> None:
    """The keepalive finds out in time; when it is back, the job that waited goes on."""
    build(place, 30, 6 * MIB)
    new = contents(place / "source")
    network.set(Weather(rate=20 * MBIT))
    with Asked(hosts) as asked, under_way(hosts, place) as process:
        with gone(network, fault):
            bound = DEAD_AFTER_S + NOTICE_SLACK_S
            noticed = within(bound, lambda: asked.link() != "up", lambda: hosts.here.ok("status"))
            assert not torn(contents(place / "destination"), new, {})
        back = time.monotonic()
        out, err = process.communicate(timeout=JOB_S)
        ended = read_result(process.returncode, out, err)
    print(f"{fault}: noticed after {noticed:.1f} s, {ended.status} {ended.code} {time.monotonic() - back:.1f} s after")
    assert ended.status == 0, ended
    assert ended.result["epochs"] > 1
    assert_same(place / "source", place / "destination")
    again = push(hosts, place)
    assert again.result["stats"]["literal"] == 0


@pytest.mark.fault("F4")
@pytest.mark.parametrize("loss", [0.01, 0.05, 0.3])
def test_packets_are_lost(hosts: Hosts, network: Network, place: Path, loss: float) -> None:
    build(place, 40, MIB // 2 if loss < 0.1 else 0)
    before = network.near.lost + network.far.lost
    network.set(Weather(loss=loss))
    ended = push(hosts, place)
    lost = network.near.lost + network.far.lost - before
    print(f"{loss:.0%} loss: {lost} packets, {ended.result['epochs']} epochs")
    assert lost


@pytest.mark.fault("F5")
@pytest.mark.parametrize("files", [400])
def test_far_away_and_out_of_order(hosts: Hosts, network: Network, place: Path, files: int) -> None:
    """Files are not asked for one by one: a tree of them takes a few round trips."""
    build(place, files)
    rtt_s = 0.2
    network.set(Weather(delay_s=rtt_s / 2, jitter_s=0.02, duplicate=0.02))
    begun = time.monotonic()
    push(hosts, place)
    trips = (time.monotonic() - begun) / rtt_s
    print(f"{files} files in {trips:.1f} round trips")
    assert trips < files / 4


@pytest.mark.fault("F6")
@pytest.mark.parametrize(("kbit", "size"), [(64, 12_000), (256, 120_000)])
def test_a_slow_network(hosts: Hosts, network: Network, place: Path, kbit: int, size: int) -> None:
    """It takes as long as it takes; meanwhile the agent answers, and does not take the link for dead."""
    build(place, 3, size)
    network.set(Weather(rate=kbit * MBIT / 1000, queue_s=4.0))
    with Asked(hosts) as asked:
        process = hosts.here.popen("push", place / "source", f"box:{place / 'destination'}", "--json")
        try:
            states = set()
            while process.poll() is None:
                states.add(asked.link())
                time.sleep(0.1)
        finally:
            process.kill()
            out, err = process.communicate()
    ended = read_result(process.returncode, out, err)
    assert ended.status == 0, ended
    assert (states, ended.result["epochs"]) == ({"up"}, 1)
    assert_same(place / "source", place / "destination")


@pytest.mark.fault("F6")
def test_a_save_overtakes_a_push(hosts: Hosts, network: Network, place: Path) -> None:
    """10 Mbit/s, 20 ms: a file that somebody waits for arrives while the large one is under way."""
    build(place, 5, 24 * MIB)
    (place / "saved").mkdir()
    with pair_of(hosts.here, place, source=place / "saved", destination=place / "there") as pair:
        (pair.source / "text").write_bytes(b"first")
        network.set(Weather(rate=10 * MBIT, delay_s=0.01))
        strike(victims(hosts, "ssh"))  # how far it is, is measured anew
        assert pair.sync().status == 0
        with Editor(hosts.here) as editor, Asked(hosts) as asked, under_way(hosts, place) as process:
            for number in range(2):
                (pair.source / "text").write_bytes(b"saved %d" % number)
                begun = time.monotonic()
                answer = editor.sync(pair.source / "text")
                print(f"save {number}: {(time.monotonic() - begun) * 1000:.0f} ms")
                assert answer.ok, answer
                assert (pair.destination / "text").read_bytes() == b"saved %d" % number
                asked.link()
            assert process.poll() is None, "the push had ended"
            network.set(CLEAR)
            out, err = process.communicate(timeout=JOB_S)
        assert read_result(process.returncode, out, err).status == 0
    assert_same(place / "source", place / "destination")
