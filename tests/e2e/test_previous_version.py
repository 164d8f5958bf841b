"""This version's agent and that of the last tagged one, each way: they work together, or name the side to upgrade."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.helpers.agents import ROOT
from tests.helpers.hosts import Account, short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

BUILD_S = 400
UNREACHABLE = 4


def previous_tag() -> str | None:
    """The last version tag before HEAD."""
    asked = subprocess.run(
        ["git", "-C", ROOT, "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return asked.stdout.strip() if asked.returncode == 0 else None


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Account:
    """The previous version, installed from its wheel into an environment of its own."""
    tag = previous_tag()
    if tag is None:
        pytest.skip("no version was tagged before this one")
    directory = tmp_path_factory.mktemp("previous")
    archive = subprocess.run(["git", "-C", ROOT, "archive", tag], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(directory / "source", filter="data")
    venv = directory / "venv"
    build: list[str | Path] = [
        sys.executable,
        "-m",
        "maturin",
        "build",
        "--quiet",
        "--release",
        "--locked",
        "--out",
        directory / "wheels",
    ]
    environ = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "core/target/previous")}
    subprocess.run(build, cwd=directory / "source", env=environ, check=True, timeout=BUILD_S, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=60)
    install: list[str | Path] = [
        venv / "bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        *(directory / "wheels").glob("*.whl"),
    ]
    subprocess.run(install, check=True, timeout=BUILD_S)
    return this_account()._replace(python=str(venv / "bin/python"), packages="")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["older there", "older here"])
def test_two_versions_meet(previous: Account, way: str, tmp_path: Path) -> None:
    near, far = (this_account(), previous) if way == "older there" else (previous, this_account())
    with TreeBuilder(tmp_path / "source", 7) as tree:
        tree.populate()
    with short_directory() as directory, two_hosts(near, directory, far=far) as hosts:
        pushed = hosts.here.run("push", tmp_path / "source", hosts.remote(tmp_path / "pushed"), "--delete")
        if pushed.status == UNREACHABLE:
            assert "too old" in pushed.err
            assert "upgrade syncctl" in pushed.err
            return
        assert pushed.status == 0, pushed
        assert_same(tmp_path / "source", tmp_path / "pushed")
        hosts.here.ok("pull", hosts.remote(tmp_path / "pushed"), tmp_path / "pulled")
        assert_same(tmp_path / "pushed", tmp_path / "pulled")
