"""Weak sums, pieces, signatures and deltas: any edit comes back, anything else is refused."""

from __future__ import annotations

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd import _core
from tests.helpers.effort import examples

PIECE = 1 << 20

# Few different bytes and long repeats make weak sums collide, and blocks occur more than once.
chunks = st.one_of(
    st.binary(max_size=200),
    st.text("ab", max_size=200).map(str.encode),
    st.builds(lambda byte, count: byte * count, st.binary(min_size=1, max_size=1), st.integers(0, 500)),
    st.builds(lambda seed, size: blake3.blake3(seed).digest(length=size), st.binary(max_size=2), st.integers(1, 2000)),
)
contents = st.lists(chunks, max_size=8).map(b"".join)


@st.composite
def edits(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A basis, and a file that was made of it by inserting, deleting, overwriting and moving."""
    basis = new = draw(contents)
    for _ in range(draw(st.integers(0, 5))):
        begin, end = sorted((draw(st.integers(0, len(new))), draw(st.integers(0, len(new)))))
        to = draw(st.integers(0, len(new) - (end - begin)))
        taken, rest = new[begin:end], new[:begin] + new[end:]
        new = draw(
            st.sampled_from([new[:begin] + draw(chunks) + new[end:], rest, rest[:to] + taken + rest[to:], new + taken])
        )
    return basis, new


def delta(basis: bytes, new: bytes, block_len: int, piece: int) -> list[tuple[bytes, int, int, int]]:
    result: list[tuple[bytes, int, int, int]] = _core._selftest(
        "delta", new, {"basis": basis, "block_len": block_len, "piece": piece}
    )
    return result


def apply(tokens: bytes, basis: bytes, length: int) -> bytes:
    result: bytes = _core._selftest("apply", tokens, {"basis": basis, "length": length})
    return result


@given(edits(), st.integers(1, 100), st.one_of(st.integers(1, 300), st.just(PIECE)))
@settings(max_examples=examples(200))
def test_a_delta_makes_the_new_file(files: tuple[bytes, bytes], block_len: int, piece: int) -> None:
    basis, new = files
    made = b""
    for tokens, literal, matched, _ in delta(basis, new, block_len, piece):
        part = apply(tokens, basis, min(piece, len(new) - len(made)))
        assert literal + matched == len(part)
        made += part
    assert made == new


@given(contents, st.integers(1, 100), st.integers(1, 300))
def test_an_equal_file_has_no_literals(content: bytes, block_len: int, piece: int) -> None:
    assert all(literal == 0 for _, literal, _, _ in delta(content, content, block_len, piece))


@given(st.binary(min_size=1, max_size=40), st.integers(1, 64), st.integers(100, 4000))
def test_strong_hashes_in_vain_are_bounded(unit: bytes, block_len: int, repeats: int) -> None:
    basis = blake3.blake3(unit).digest(length=3000) + unit * 5 + b"x" + unit * 7
    new = (unit * repeats)[:20_000]
    wasted = sum(wasted for *_, wasted in delta(basis, new, block_len, PIECE))
    assert wasted <= 3 * len(new) + PIECE


@given(st.binary(max_size=200), st.integers(0, 100))
def test_arbitrary_tokens_are_applied_or_refused(tokens: bytes, length: int) -> None:
    try:
        assert len(apply(tokens, b"0123456789", length)) == length
    except ValueError as error:
        assert str(error).startswith("delta: ")  # noqa: PT017 - both outcomes are right


@given(edits(), st.integers(0, 1 << 16), st.integers(0, 255))
def test_a_flipped_byte_in_tokens_is_survived(files: tuple[bytes, bytes], at: int, flip: int) -> None:
    basis, new = files
    for tokens, *_ in delta(basis, new, 16, PIECE):
        broken = bytearray(tokens)
        broken[at % len(broken)] ^= flip
        try:
            apply(bytes(broken), basis, len(new))
        except ValueError as error:
            assert str(error).startswith("delta: ")  # noqa: PT017 - both outcomes are right


def naive_weak(block: bytes) -> int:
    signed = [byte - 256 if byte > 127 else byte for byte in block]
    s1 = sum(signed)
    s2 = sum((len(block) - at) * byte for at, byte in enumerate(signed))
    return s1 & 0xFFFF | (s2 & 0xFFFF) << 16


@given(contents)
def test_weak_sums_are_the_naive_ones(block: bytes) -> None:
    assert _core._selftest("weak", block, {}) == naive_weak(block)


@given(contents, st.integers(1, 80))
def test_rolled_sums_are_the_naive_ones(content: bytes, length: int) -> None:
    windows = [content[at : at + length] for at in range(len(content) - length + 1)]
    assert _core._selftest("roll", content, {"length": length}) == [naive_weak(window) for window in windows]


@pytest.mark.parametrize("size", [0, 1, 1024, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 1025, 7 * PIECE + 5])
def test_pieces_merge_to_the_whole_files_hash(size: int) -> None:
    data = blake3.blake3(b"pieces").digest(length=size) if size else b""
    assert _core._selftest("hash", data, {}) == blake3.blake3(data).digest()


@given(st.integers(0, (1 << 64) - 1))
def test_block_lengths_follow_the_square_root(size: int) -> None:
    block_len = _core._selftest("block-len", b"", {"size": size})
    assert block_len & (block_len - 1) == 0
    assert 4096 <= block_len <= PIECE
    if 4096 < block_len < 131_072:
        assert block_len**2 <= size < (2 * block_len) ** 2
    assert min(size, 1 << 40) <= block_len << 20


def parts(basis: bytes, blocks: int) -> list[bytes]:
    result: list[bytes] = _core._selftest("sign", basis, {"block_len": 1024, "blocks": blocks})
    return result


def build(payloads: list[bytes]) -> tuple[int, int, int] | None:
    result: tuple[int, int, int] | None = _core._selftest("parts", b"", {"payloads": payloads})
    return result


@given(st.integers(0, 20_000), st.integers(1, 40))
def test_signatures_travel_in_parts(size: int, blocks: int) -> None:
    payloads = parts(bytes(size), blocks)
    assert build(payloads) == (size, 1024, -(-size // 1024))
    if len(payloads) > 1:
        assert build(payloads[:-1]) is None
        with pytest.raises(ValueError, match="out of order"):
            build(payloads[1:])


@given(st.integers(0, 5000), st.integers(0, 200), st.binary(min_size=1, max_size=9))
def test_broken_parts_are_taken_or_refused(size: int, at: int, junk: bytes) -> None:
    payload = parts(bytes(size), 100)[0]
    at %= len(payload)
    try:
        build([payload[:at] + junk + payload[at + len(junk) :]])
    except ValueError as error:
        assert str(error).startswith("basis: ")  # noqa: PT017 - both outcomes are right


@given(st.lists(st.binary(max_size=150), max_size=3), st.integers(0, 5))
def test_arbitrary_payloads_are_refused(payloads: list[bytes], pieces: int) -> None:
    for payload in payloads:
        with pytest.raises(ValueError, match=r"^basis: "):
            build([payload])
        head = bytes(8) + b"\2\0\0\0" + payload
        try:
            assert all(piece < pieces for piece, _ in _core._selftest("pieces", head, {"pieces": pieces}))
        except ValueError as error:
            assert str(error).startswith("basis: ")  # noqa: PT017 - both outcomes are right
