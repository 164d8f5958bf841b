//! The scan for weak sums that some block has: the loop that runs over every byte that changed.

use crate::rolling::Rolling;

/// Weak sums by hash, one bit each: a sum that was added always passes, another one seldom.
#[derive(Debug)]
pub struct Sieve {
    /// Odd and random, so that no peer can choose which sums share a hash.
    multiplier: u32,
    /// As many bits as `shift` leaves of a hash.
    words: Vec<u32>,
    shift: u32,
}

impl Sieve {
    /// Of `1 << bits` bits, 5 to 31.
    pub fn new(bits: u32, multiplier: u32) -> Sieve {
        let bits = bits.clamp(5, 31);
        Sieve {
            multiplier: multiplier | 1,
            words: vec![0; 1 << (bits - 5)],
            shift: u32::BITS - bits,
        }
    }

    /// Spreads weak sums over all bits, the upper ones best; one to one.
    #[inline(always)]
    pub fn hash(&self, weak: u32) -> u32 {
        weak.wrapping_mul(self.multiplier)
    }

    /// Lets a weak sum pass.
    pub fn add(&mut self, weak: u32) {
        let bit = self.hash(weak) >> self.shift;
        self.words[bit as usize / 32] |= 1 << (bit % 32);
    }

    #[inline(always)]
    fn passes(&self, weak: u32) -> bool {
        let bit = self.hash(weak) >> self.shift;
        self.words[bit as usize / 32] >> (bit % 32) & 1 == 1
    }

    /// Moves the window on until its weak sum passes and `wanted` says yes; how far, at most to the end of `leaving`.
    ///
    /// `leaving` begins with the window's first byte, `entering`, not shorter, with the byte behind it.
    pub fn scan(&self, rolling: &mut Rolling, leaving: &[u8], entering: &[u8], wanted: impl Fn(u32) -> bool) -> usize {
        #[cfg(target_arch = "x86_64")]
        let moved = if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, the only thing that the function needs.
            match unsafe { self.scan_avx2(rolling, leaving, entering, &wanted) } {
                (moved, true) => return moved,
                (moved, false) => moved,
            }
        } else {
            0
        };
        #[cfg(not(target_arch = "x86_64"))]
        let moved = 0;
        let rest = leaving[moved..].iter().zip(&entering[moved..]);
        for (at, (&out, &new)) in rest.enumerate() {
            let weak = rolling.weak();
            if self.passes(weak) && wanted(weak) {
                return moved + at;
            }
            rolling.roll(out, new);
        }
        leaving.len()
    }

    /// Sixteen places a step: (how far, whether it ended on a wanted sum).  Leaves fewer than sixteen undone.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn scan_avx2(
        &self,
        rolling: &mut Rolling,
        leaving: &[u8],
        entering: &[u8],
        wanted: &impl Fn(u32) -> bool,
    ) -> (usize, bool) {
        use std::arch::x86_64::*;

        let begin = rolling.weak();
        let len = _mm256_set1_epi16(rolling.window() as i16);
        let multiplier = _mm256_set1_epi32(self.multiplier as i32);
        let shift = _mm_cvtsi32_si128(self.shift as i32);
        // The sums at the step's first place, in all lanes.
        let mut s1 = _mm256_set1_epi16(begin as i16);
        let mut s2 = _mm256_set1_epi16((begin >> 16) as i16);
        let (outs, _) = leaving.as_chunks::<16>();
        let (news, _) = entering.as_chunks::<16>();
        let mut moved = 0;
        for (out, new) in outs.iter().zip(news) {
            // SAFETY: the loads are unaligned, and a step has the 16 bytes that each reads.
            let (out, new) = unsafe {
                (
                    _mm_loadu_si128(out.as_ptr().cast()),
                    _mm_loadu_si128(new.as_ptr().cast()),
                )
            };
            let (out, new) = (_mm256_cvtepi8_epi16(out), _mm256_cvtepi8_epi16(new));
            // What one place adds to the sums, what all up to it add, and so the sums behind and at each place.
            let add1 = _mm256_sub_epi16(new, out);
            let behind1 = _mm256_add_epi16(s1, prefix_sums(add1));
            let add2 = _mm256_sub_epi16(behind1, _mm256_mullo_epi16(out, len));
            let behind2 = _mm256_add_epi16(s2, prefix_sums(add2));
            let (at1, at2) = (_mm256_sub_epi16(behind1, add1), _mm256_sub_epi16(behind2, add2));
            // Places 0 to 3 and 8 to 11, then 4 to 7 and 12 to 15.
            let weak = [_mm256_unpacklo_epi16(at1, at2), _mm256_unpackhi_epi16(at1, at2)];
            let pass = weak.map(|weak| {
                let bit = _mm256_srl_epi32(_mm256_mullo_epi32(weak, multiplier), shift);
                let word = _mm256_srli_epi32::<5>(bit);
                // SAFETY: a hash has `32 - shift` bits left, and there are `1 << (32 - shift - 5)` words, so the
                // index is in range, and below 2^26, so it is not negative.
                let word = unsafe { _mm256_i32gather_epi32::<4>(self.words.as_ptr().cast(), word) };
                // The bit becomes the sign, the sign the whole lane.
                let up = _mm256_andnot_si256(bit, _mm256_set1_epi32(31));
                _mm256_srai_epi32::<31>(_mm256_sllv_epi32(word, up))
            });
            // One bit for each place that passes: packed, they are in order again, but for the gap between the halves.
            let pass = _mm256_packs_epi32(pass[0], pass[1]);
            let mut places = _mm256_movemask_epi8(_mm256_packs_epi16(pass, _mm256_setzero_si256())) as u32;
            if places != 0 {
                places = places & 0xff | places >> 8;
                let mut sums = [[0u16; 16]; 2];
                // SAFETY: the stores are unaligned, and there are the 32 bytes that each writes.
                unsafe {
                    _mm256_storeu_si256(sums[0].as_mut_ptr().cast(), at1);
                    _mm256_storeu_si256(sums[1].as_mut_ptr().cast(), at2);
                }
                while places != 0 {
                    let place = places.trailing_zeros() as usize;
                    places &= places - 1;
                    let weak = u32::from(sums[0][place]) | u32::from(sums[1][place]) << 16;
                    if wanted(weak) {
                        *rolling = Rolling::new(weak, rolling.window());
                        return (moved + place, true);
                    }
                }
            }
            s1 = last_lane(behind1);
            s2 = last_lane(behind2);
            moved += 16;
        }
        let (s1, s2) = (_mm256_cvtsi256_si32(s1) as u32, _mm256_cvtsi256_si32(s2) as u32);
        *rolling = Rolling::new(s1 & 0xffff | s2 << 16, rolling.window());
        (moved, false)
    }
}

/// Each of sixteen lanes becomes the sum of itself and those before it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn prefix_sums(lanes: std::arch::x86_64::__m256i) -> std::arch::x86_64::__m256i {
    use std::arch::x86_64::*;

    let lanes = _mm256_add_epi16(lanes, _mm256_bslli_epi128::<2>(lanes));
    let lanes = _mm256_add_epi16(lanes, _mm256_bslli_epi128::<4>(lanes));
    let lanes = _mm256_add_epi16(lanes, _mm256_bslli_epi128::<8>(lanes));
    // The lower half's sum goes to all of the upper half.
    let lower = _mm256_permute2x128_si256::<0x08>(lanes, lanes);
    _mm256_add_epi16(lanes, _mm256_shuffle_epi8(lower, _mm256_set1_epi16(0x0f0e)))
}

/// The last of sixteen lanes, in all lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn last_lane(lanes: std::arch::x86_64::__m256i) -> std::arch::x86_64::__m256i {
    use std::arch::x86_64::*;

    let upper = _mm256_permute4x64_epi64::<0xff>(lanes);
    _mm256_shuffle_epi8(upper, _mm256_set1_epi16(0x0f0e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rolling;

    #[test]
    fn every_wanted_sum_is_found_where_it_is_and_no_other() {
        let data: Vec<u8> = (0..3000u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as u8)
            .collect();
        for len in [1, 16, 17, 64, 704] {
            let weak = |at: usize| rolling::weak(&data[at..at + len]);
            // Few bits, so that many sums pass that were never added.
            for (bits, wanted) in [(5, 0), (5, 31), (9, 33), (9, 900), (16, 1500), (16, 2295)] {
                let mut sieve = Sieve::new(bits, 0x9e37_79b1);
                sieve.add(weak(wanted));
                for begin in (0..=wanted).rev().step_by(7) {
                    let mut rolling = Rolling::new(weak(begin), len as u32);
                    let entering = &data[begin + len..];
                    let leaving = &data[begin..begin + entering.len()];
                    let moved = sieve.scan(&mut rolling, leaving, entering, |sum| sum == weak(wanted));
                    let first = (begin..).find(|&at| weak(at) == weak(wanted));
                    assert_eq!((Some(begin + moved), rolling.weak()), (first, weak(wanted)));
                    let moved = sieve.scan(
                        &mut rolling,
                        &data[wanted..data.len() - len],
                        &data[wanted + len..],
                        |_| false,
                    );
                    assert_eq!(wanted + moved, data.len() - len);
                }
            }
        }
    }

    #[test]
    fn the_window_is_where_the_scan_ended() {
        let data: Vec<u8> = (0..500).map(|n| (n * n % 251) as u8).collect();
        let sieve = Sieve::new(8, 3);
        for count in 0..100 {
            let mut rolling = Rolling::new(rolling::weak(&data[..100]), 100);
            assert_eq!(
                sieve.scan(&mut rolling, &data[..count], &data[100..100 + count], |_| true),
                count
            );
            assert_eq!(rolling.weak(), rolling::weak(&data[count..count + 100]));
        }
    }
}
