use std::io;

use super::tokens::{COPY, LITERAL};
use super::*;

/// Deterministic bytes that do not repeat.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| step()).collect()
}

/// The delta in pieces of `piece` bytes, applied: equal to `new`, or the test fails.  The sum of its stats, which is the
/// same whether blocks in their place are hashed once or twice.
fn sync(basis: &[u8], new: &[u8], block_len: u32, piece: usize) -> Stats {
    let stats = sync_as(basis, new, block_len, piece, false);
    let known = sync_as(basis, new, block_len, piece, true);
    assert_eq!((stats.literal, stats.matched), (known.literal, known.matched));
    assert!(known.wasted <= stats.wasted);
    stats
}

fn sync_as(basis: &[u8], new: &[u8], block_len: u32, piece: usize, in_place: bool) -> Stats {
    let mut matcher = Matcher::new(Signature::of(basis, block_len));
    let mut sum = Stats::default();
    for (n, window) in new.chunks(piece).enumerate() {
        let behind = n * piece + window.len();
        let lookahead = &new[behind..new.len().min(behind + block_len as usize - 1)];
        let offset = n * piece;
        let own = if offset.is_multiple_of(block_len as usize) && in_place {
            signature::values(window, offset as u64, block_len)
        } else {
            Vec::new()
        };
        let mut tokens = Vec::new();
        let stats = matcher.piece(window, (n * piece) as u64, &own, lookahead, &mut tokens);
        let mut made = vec![0; window.len()];
        let applied = apply(&tokens, basis, &mut made).ok();
        assert_eq!(applied, Some(Stats { wasted: 0, ..stats }));
        assert!(made == window, "piece {n} differs");
        sum.literal += stats.literal;
        sum.matched += stats.matched;
        sum.wasted += stats.wasted;
    }
    sum
}

fn apply(tokens: &[u8], basis: &[u8], out: &mut [u8]) -> Result<Stats, ApplyError> {
    let read = |offset: u64, buffer: &mut [u8]| {
        buffer.copy_from_slice(&basis[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    };
    apply_untrusted(tokens, basis.len() as u64, read, out, &mut Vec::new())
}

#[test]
fn an_equal_file_is_copies_alone_whatever_the_pieces() {
    let basis = noise(100_000, 1);
    for piece in [500, 703, 704, 1000, 4096, 100_000] {
        assert_eq!(
            sync(&basis, &basis, 704, piece),
            Stats {
                literal: 0,
                matched: 100_000,
                wasted: 0
            }
        );
    }
}

#[test]
fn an_equal_piece_is_one_token() {
    let basis = noise(100_000, 1);
    let mut tokens = Vec::new();
    Matcher::new(Signature::of(&basis, 704)).piece(&basis, 0, &[], &[], &mut tokens);
    assert_eq!(tokens.len(), 13);
}

#[test]
fn insertions_deletions_and_moves_cost_about_what_they_change() {
    let basis = noise(200_000, 2);
    let (a, b) = basis.split_at(77_777);
    let changed = [
        [b"new".as_slice(), &basis].concat(),
        [a, b"in the middle", b].concat(),
        [a, &b[1000..]].concat(),
        [b, a].concat(),
        basis[..150_000].to_vec(),
        [basis.as_slice(), &noise(500, 3)].concat(),
    ];
    for (n, new) in changed.iter().enumerate() {
        for piece in [4096, 65_536, 1 << 20] {
            let stats = sync(&basis, new, 704, piece);
            assert!(stats.literal <= 2 * 704 + 500, "change {n}: {stats:?}");
            assert_eq!(stats.literal + stats.matched, new.len() as u64);
        }
    }
}

#[test]
fn the_short_last_block_is_found_at_the_end_alone() {
    let basis = noise(704 * 3 + 100, 4);
    let short = &basis[704 * 3..];
    let at_the_end = [noise(5000, 5).as_slice(), short].concat();
    assert_eq!(sync(&basis, &at_the_end, 704, 1000).matched, 100);
    let elsewhere = [short, &noise(5000, 5)].concat();
    assert_eq!(sync(&basis, &elsewhere, 704, 1000).matched, 0);
}

#[test]
fn a_repeated_byte_shifted_by_one_is_copies() {
    let basis = vec![b'a'; 300_000];
    let mut shifted = basis.clone();
    shifted[0] = b'b';
    let stats = sync(&basis, &shifted, 704, 1 << 16);
    assert!(stats.literal <= 2 * 704 && stats.wasted == 0, "{stats:?}");
}

/// Blocks of one byte, but for three in the middle that leave both sums as they were.
fn colliding(block: usize, variant: usize) -> Vec<u8> {
    let mut bytes = vec![b'a'; block];
    let at = 3 * variant + 1;
    (bytes[at], bytes[at + 1], bytes[at + 2]) = (b'b', b'_', b'b');
    bytes
}

#[test]
fn colliding_weak_sums_cost_bounded_strong_hashes() {
    let basis: Vec<u8> = (0..200).flat_map(|variant| colliding(704, variant)).collect();
    let weak = rolling::weak(&[b'a'; 704]);
    assert!(Signature::of(&basis, 704).weak.iter().all(|&sum| sum == weak));
    let new = vec![b'a'; 10 << 20];
    let stats = sync(&basis, &new, 704, 1 << 20);
    assert_eq!(stats.literal, new.len() as u64);
    assert!(stats.wasted <= new.len() as u64 + (1 << 20), "{stats:?}");
    // An honest file is still found among them, as far as chains go.
    assert!(sync(&basis, &basis, 704, 1 << 20).literal == 0);
}

#[test]
fn a_signature_that_does_not_fit_matches_nothing() {
    let basis = noise(5000, 8);
    for change in 0..4 {
        let mut signature = Signature::of(&basis, 704);
        match change {
            0 => signature.basis_size = u64::MAX,
            1 => signature.block_len = 0,
            2 => drop(signature.weak.pop()),
            _ => signature.strong.clear(),
        }
        let mut tokens = Vec::new();
        let stats = Matcher::new(signature).piece(&basis, 0, &[], &[], &mut tokens);
        assert_eq!((stats.literal, stats.matched), (5000, 0));
    }
}

#[test]
fn broken_tokens_are_refused() {
    let copy = |len: u32, offset: u64| [&[COPY][..], &len.to_le_bytes(), &offset.to_le_bytes()].concat();
    let literal = |bytes: &[u8]| [&[LITERAL][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let basis = noise(100, 9);
    let run = |tokens: &[u8]| match apply(tokens, &basis, &mut [0; 10]) {
        Ok(stats) => Ok((stats.literal, stats.matched)),
        Err(ApplyError::Violation(how)) => Err(how),
        Err(ApplyError::Io(_)) => Err("io"),
    };
    assert_eq!(run(&[copy(6, 94), literal(b"four")].concat()), Ok((4, 6)));
    for (tokens, how) in [
        (copy(10, 91), "delta: copies from outside the basis"),
        (copy(10, u64::MAX), "delta: copies from outside the basis"),
        (copy(11, 0), "delta: longer than its piece"),
        (copy(u32::MAX, 0), "delta: longer than its piece"),
        (copy(0, 0), "delta: empty token"),
        (literal(b""), "delta: empty token"),
        (copy(9, 0), "delta: shorter than its piece"),
        (vec![], "delta: shorter than its piece"),
        (vec![2, 10, 0, 0, 0], "delta: a hole that is none"),
        (vec![3, 10, 0, 0, 0], "delta: unknown token"),
        ([copy(10, 0), vec![0]].concat(), "delta: truncated"),
        (literal(b"0123456789")[..14].to_vec(), "delta: truncated"),
        (copy(10, 0)[..12].to_vec(), "delta: truncated"),
    ] {
        assert_eq!(run(&tokens), Err(how));
    }
    let failing = |_: u64, _: &mut [u8]| Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    assert!(matches!(
        apply_untrusted(&copy(10, 0), 100, failing, &mut [0; 10], &mut Vec::new()),
        Err(ApplyError::Io(_))
    ));
    assert!(apply_untrusted(&copy(10, 0), 100, failing, &mut [0; 9], &mut Vec::new()).is_err());
}

#[test]
fn a_block_that_began_before_the_first_piece_of_a_run_is_found_by_its_end() {
    let basis = noise(60_000, 1);
    let new = [&noise(15, 2)[..], &basis].concat();
    let (piece, block_len) = (7 * 1024, 1024);
    let mut literal = 0;
    for (n, window) in new.chunks(piece).enumerate() {
        let offset = n * piece;
        let behind = offset + window.len();
        let mut matcher = Matcher::new(Signature::of(&basis, block_len));
        let before = matcher.lookbehind(offset as u64) as usize;
        matcher.precede(new[offset - before..offset].to_vec());
        let lookahead = &new[behind..new.len().min(behind + block_len as usize - 1)];
        let mut tokens = Vec::new();
        literal += matcher
            .piece(window, offset as u64, &[], lookahead, &mut tokens)
            .literal;
        assert_eq!(
            matcher.lookbehind(behind as u64),
            0,
            "the next piece of the run has a carry"
        );
        let mut made = vec![0; window.len()];
        assert!(apply(&tokens, &basis, &mut made).is_ok());
        assert!(made == window);
    }
    assert_eq!(literal, 15);
}
