"""The fuzzers' corpora through their targets, without a fuzzer; the crate's run in its own tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parents[1] / "fuzz/corpus"


@pytest.mark.fault("G6")
@pytest.mark.parametrize("name", TARGETS)
def test_a_corpus_does_no_harm(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        TARGETS[name](path.read_bytes())
