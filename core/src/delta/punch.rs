//! A piece with holes: whatever tokens make it, its holes go as holes.

use std::ops::Range;

use super::Stats;
use super::tokens::{COPY, LITERAL, Tokens};

/// Appends to `out` tokens that make the same `window` as `tokens` do, with its `holes`, which are in order, cut out of
/// them. No tokens: all the rest is literal.
pub fn punch(tokens: &[u8], window: &[u8], holes: &[Range<usize>], out: &mut Vec<u8>) -> Stats {
    let mut made = Tokens {
        out,
        window,
        done: 0,
        copy: None,
        stats: Stats::default(),
    };
    let mut holes = holes.iter().peekable();
    for (copy, mut basis) in copies(tokens) {
        let mut at = copy.start;
        while at < copy.end {
            let passed = made.done.clamp(at, copy.end) - at;
            at += passed;
            basis += passed as u64;
            while let Some(hole) = holes.next_if(|hole| hole.start <= at) {
                made.hole(hole);
            }
            if made.done > at || at == copy.end {
                continue;
            }
            let until = holes.peek().map_or(copy.end, |hole| hole.start.min(copy.end));
            made.copy(at, basis, until - at);
        }
    }
    for hole in holes {
        made.hole(hole);
    }
    made.finish()
}

/// The copies that tokens of our own make: where to, and from where in the basis.
fn copies(tokens: &[u8]) -> impl Iterator<Item = (Range<usize>, u64)> {
    let (mut rest, mut at) = (tokens, 0);
    std::iter::from_fn(move || {
        loop {
            let (&kind, behind) = rest.split_first()?;
            let (len, behind) = behind.split_first_chunk()?;
            let len = u32::from_le_bytes(*len) as usize;
            let here = at..at + len;
            at = here.end;
            match kind {
                LITERAL => rest = behind.get(len..)?,
                COPY => {
                    let (basis, behind) = behind.split_first_chunk()?;
                    rest = behind;
                    return Some((here, u64::from_le_bytes(*basis)));
                }
                _ => rest = behind,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::apply_untrusted;
    use super::*;

    const UNIT: usize = 1024;

    /// All ways to make eight units of literals and copies, with all ways to place holes over them.
    #[test]
    fn the_same_piece_with_its_holes() {
        let basis: Vec<u8> = (0..8 * UNIT).map(|n| (n / UNIT) as u8 + 1).collect();
        for copied in 0..256_usize {
            for punched in 0..256_usize {
                let is = |bits: usize, unit: usize| bits >> unit & 1 == 1;
                let mut window = basis.clone();
                let mut holes: Vec<Range<usize>> = Vec::new();
                for unit in (0..8).filter(|&unit| is(punched, unit)) {
                    window[unit * UNIT..][..UNIT].fill(0);
                    match holes.last_mut() {
                        Some(last) if last.end == unit * UNIT => last.end += UNIT,
                        _ => holes.push(unit * UNIT..(unit + 1) * UNIT),
                    }
                }
                let mut tokens = Vec::new();
                let mut plain = Tokens {
                    out: &mut tokens,
                    window: &window,
                    done: 0,
                    copy: None,
                    stats: Stats::default(),
                };
                for unit in (0..8).filter(|&unit| is(copied, unit)) {
                    plain.copy(unit * UNIT, (unit * UNIT) as u64, UNIT);
                }
                plain.finish();
                let mut out = Vec::new();
                let stats = punch(&tokens, &window, &holes, &mut out);
                assert_eq!(stats.matched as usize, (copied & !punched).count_ones() as usize * UNIT);
                assert_eq!(
                    stats.literal as usize,
                    (!(copied | punched) & 255).count_ones() as usize * UNIT
                );
                let mut made = vec![9; window.len()];
                let mut found = Vec::new();
                let read = |at: u64, into: &mut [u8]| {
                    into.copy_from_slice(&basis[at as usize..][..into.len()]);
                    Ok(())
                };
                apply_untrusted(&out, basis.len() as u64, read, &mut made, &mut found).expect("tokens of our own");
                assert_eq!(made, window);
                assert_eq!(found, holes);
            }
        }
    }
}
