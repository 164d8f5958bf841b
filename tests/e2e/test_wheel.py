"""The one wheel goes into every Python that it promises to run on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from proto.version import VERSION

HERE = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
INSTALL_S = 100.0


def interpreter(version: str) -> str | None:
    """A Python of that version that runs; a version manager's stand-in may refuse to."""
    manager = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for found in (shutil.which(f"python{version}"), *map(str, Path(manager).glob(f"versions/{version}.*/bin/python3"))):
        if found is not None:
            asked = subprocess.run([found, "-c", "import ensurepip, venv"], capture_output=True, check=False)
            if asked.returncode == 0:
                return found
    return None


@pytest.mark.timeout(150)
@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_installs_and_runs(version: str, tmp_path: Path) -> None:
    wheels = list((HERE / "build/wheels").glob("*.whl"))
    if not wheels:
        pytest.skip("no wheel in build/wheels: 'make wheel' builds it")
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no usable Python {version} on this machine")
    assert [wheel.name.split("-")[2:4] for wheel in wheels] == [["cp311", "abi3"]]
    venv = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", venv], check=True, timeout=60)
    install: list[str | Path] = [venv / "bin/python", "-m", "pip", "install", "--quiet", wheels[0]]
    subprocess.run(install, check=True, timeout=INSTALL_S)
    environ = os.environ | {"SYNCCTL_HOME": str(tmp_path / "h")}
    for command in (("syncctl", "version"), ("agentd", "--version")):
        said = subprocess.run([venv / "bin" / command[0], *command[1:]], env=environ, capture_output=True, text=True,
                              check=True, timeout=30)  # fmt: skip
        assert VERSION in said.stdout
    source, destination = tmp_path / "s", tmp_path / "d"
    source.mkdir()
    (source / "f").write_text("over the wheel")
    syncctl = venv / "bin/syncctl"
    try:
        subprocess.run([syncctl, "push", source, destination], env=environ, check=True, timeout=60)
    finally:
        subprocess.run([syncctl, "stop"], env=environ, check=False, timeout=60)
    assert (destination / "f").read_text() == "over the wheel"
