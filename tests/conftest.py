"""Fixtures of the end-to-end tests: accounts, hosts, and a place for trees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.helpers.fault_case import FaultCase
from tests.helpers.hosts import (
    Account,
    Agent,
    Hosts,
    one_host,
    ordinary_account,
    our_files,
    short_directory,
    this_account,
    two_hosts,
)
from tests.helpers.matrix import CASES, fault_table, with_tests
from tests.helpers.sshd import SSHD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pytest_addoption(parser: pytest.Parser) -> None:
    """``pytest --fault-table`` lists the cases of the fault matrix with their tests, and runs nothing;
    ``--fault-table=write`` writes them into docs/security.md.
    """
    parser.addoption("--fault-table", nargs="?", const="print", choices=("print", "write"), help="the fault matrix")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every number of a marker is one of the matrix.  Tests that share a module's agents share a process, too."""
    table = fault_table(items)
    if config.option.fault_table:
        for case in CASES:
            print(case, *table.get(case, ["-"]))
        if config.option.fault_table == "write":
            page = config.rootpath / "docs/security.md"
            page.write_text(with_tests(page.read_text(), table))
        items.clear()
    for item in items:
        chosen = getattr(item, "callspec", None)
        account = chosen.params.get("account", "") if chosen else ""
        item.add_marker(pytest.mark.xdist_group(f"{item.location[0]} {account}"))


@pytest.fixture(scope="session")
def nobody_special() -> Iterator[Account | None]:
    """An account without privileges."""
    with ordinary_account() as account:
        yield account


@pytest.fixture(scope="module", params=["root", "ordinary"])
def account(request: pytest.FixtureRequest) -> Account:
    """Each test that asks for it runs as root and as an ordinary user; root hides EACCES."""
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("not run as root")
        return this_account()
    if os.geteuid() != 0:
        return this_account()
    made: Account | None = request.getfixturevalue("nobody_special")
    if made is None:
        pytest.skip("no account with a Python that it may run can be made here")
    return made


@pytest.fixture(scope="module")
def hosts(account: Account) -> Iterator[Hosts]:
    """Two hosts and the link between them, shared by a module's tests.  Without sshd, by the embedded server."""
    if SSHD is None and account.other:
        pytest.skip("sshd is not installed, and the embedded server serves its own account alone")
    with short_directory(account) as directory, two_hosts(account, directory, embedded=SSHD is None) as made:
        yield made


@pytest.fixture(scope="module")
def agent(account: Account) -> Iterator[Agent]:
    """One host, shared by a module's tests."""
    with short_directory(account) as directory, one_host(account, directory) as made:
        yield made


@pytest.fixture
def place(account: Account) -> Iterator[Path]:
    """A directory of the account's for trees.  A test that leaves one of our own files there fails."""
    with short_directory(account) as directory:
        yield directory
        assert not our_files(directory)


@pytest.fixture
def case(hosts: Hosts, place: Path) -> Iterator[FaultCase]:
    """Two roots in ``place``, and the oracles of the fault matrix."""
    made = FaultCase(hosts, place)
    yield made
    made.finish()
