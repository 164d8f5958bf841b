//! MB/s on one core of what deltas are made of: `cargo bench --bench delta`.

use std::hint::black_box;
use std::time::Instant;

use _core::delta::{Matcher, Stats, apply_untrusted};
use _core::piece::{self, PIECE};
use _core::rolling;
use _core::signature::{self, Signature};

const ROUNDS: usize = 5;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Prints the best of a few rounds; `work` goes through `bytes` bytes.
fn report<T>(name: &str, bytes: usize, mut work: impl FnMut() -> T) {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        black_box(work());
        best = best.min(begin.elapsed().as_secs_f64());
    }
    println!("{name:<44} {:>9.0} MB/s", bytes as f64 / best / 1e6);
}

fn deltas(matcher: &Matcher, new: &[u8], block_len: u32, mut each: impl FnMut(&[u8])) -> Stats {
    let mut matcher = matcher.clone();
    let (mut sum, mut tokens) = (Stats::default(), Vec::with_capacity(2 * PIECE));
    for (n, window) in new.chunks(PIECE).enumerate() {
        let behind = n * PIECE + window.len();
        let lookahead = &new[behind..new.len().min(behind + block_len as usize - 1)];
        tokens.clear();
        let offset = (n * PIECE) as u64;
        let own = signature::values(window, offset, block_len);
        let stats = matcher.piece(window, offset, &own, lookahead, &mut tokens);
        sum.literal += stats.literal;
        sum.matched += stats.matched;
        sum.wasted += stats.wasted;
        each(&tokens);
    }
    sum
}

fn main() {
    for size in [4 << 20, 64 << 20, 256 << 20] {
        let basis = noise(size, 1);
        let block_len = signature::block_len(size as u64);
        println!("-- {} MiB, blocks of {block_len}", size >> 20);
        report("weak sums", size, || {
            basis
                .chunks(block_len as usize)
                .map(rolling::weak)
                .fold(0, |a, b| a ^ b)
        });
        report("sign", size, || Signature::of(&basis, block_len));
        report("hash in pieces", size, || {
            let pieces = basis.chunks(PIECE).enumerate();
            pieces
                .map(|(n, data)| piece::chaining_value(data, n as u32, size as u64)[0])
                .fold(0, |a, b| a ^ b)
        });
        let signature = Signature::of(&basis, block_len);
        report("index (of the basis's bytes)", size, || Matcher::new(signature.clone()));
        let matcher = Matcher::new(signature);
        report("match, all equal", size, || deltas(&matcher, &basis, block_len, |_| ()));

        let mut touched = basis.clone();
        for at in (0..size).step_by(size / 16) {
            touched[at..at + (64 << 10).min(size / 64)].copy_from_slice(&noise((64 << 10).min(size / 64), at as u64));
        }
        report("match, 16 changes in place", size, || {
            deltas(&matcher, &touched, block_len, |_| ())
        });
        let shifted = [b"!".as_slice(), &basis].concat();
        report("match, one byte in front", size, || {
            deltas(&matcher, &shifted, block_len, |_| ())
        });
        let other = noise(size, 2);
        report("match, nothing alike", size, || {
            deltas(&matcher, &other, block_len, |_| ())
        });

        let constant = vec![b'a'; size];
        report("match, a repeated byte, nothing alike", size, || {
            deltas(&matcher, &constant, block_len, |_| ())
        });
        // Every weak sum collides, no strong one matches.
        let crafted: Vec<u8> = (0..size / block_len as usize)
            .flat_map(|n| {
                let mut block = vec![b'a'; block_len as usize];
                let at = n * 3 % (block_len as usize - 3);
                (block[at], block[at + 1], block[at + 2]) = (b'b', b'_', b'b');
                block
            })
            .collect();
        let colliding = Matcher::new(Signature::of(&crafted, block_len));
        report("match, crafted collisions", size, || {
            deltas(&colliding, &constant, block_len, |_| ())
        });

        let mut tokens = Vec::new();
        let stats = deltas(&matcher, &shifted, block_len, |piece| tokens.push(piece.to_vec()));
        let mut out = vec![0; PIECE];
        report("apply", shifted.len(), || {
            for (tokens, window) in tokens.iter().zip(shifted.chunks(PIECE)) {
                let read = |offset: u64, buffer: &mut [u8]| {
                    buffer.copy_from_slice(&basis[offset as usize..offset as usize + buffer.len()]);
                    Ok(())
                };
                let out = &mut out[..window.len()];
                let applied = apply_untrusted(tokens, size as u64, read, out, &mut Vec::new());
                assert!(applied.is_ok() && *out == *window);
            }
        });
        println!(
            "   one byte in front: {} literal, {} matched",
            stats.literal, stats.matched
        );
    }
}
