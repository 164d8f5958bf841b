//! rsync's rolling weak sum: s1 | s2 << 16 over signed bytes, s1 their sum, s2 the sum of the running sums.

/// The weak sum of one block.
pub fn weak(block: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, the only thing that the function needs.
        return unsafe { x86::weak(block) };
    }
    let (s1, s2) = sums(block, 0, 0);
    pack(s1, s2)
}

/// The weak sum of a block that lies in two slices, one after the other.
pub fn weak_of_two(first: &[u8], second: &[u8]) -> u32 {
    if second.is_empty() {
        return weak(first);
    }
    let (a, b) = (weak(first), weak(second));
    let s1 = (a & 0xffff).wrapping_add(b & 0xffff);
    let s2 = (a >> 16)
        .wrapping_add(b >> 16)
        .wrapping_add((a & 0xffff).wrapping_mul(second.len() as u32));
    pack(s1, s2)
}

fn pack(s1: u32, s2: u32) -> u32 {
    s1 & 0xffff | s2 << 16
}

fn sums(block: &[u8], mut s1: u32, mut s2: u32) -> (u32, u32) {
    for &byte in block {
        s1 = s1.wrapping_add(signed(byte));
        s2 = s2.wrapping_add(s1);
    }
    (s1, s2)
}

fn signed(byte: u8) -> u32 {
    byte as i8 as u32
}

/// The weak sum of a window of constant length that moves on byte by byte.
#[derive(Clone, Copy, Debug)]
pub struct Rolling {
    s1: u32,
    s2: u32,
    len: u32,
}

impl Rolling {
    /// Takes over from `weak`, the sum of the `len` bytes in the window.
    pub fn new(weak: u32, len: u32) -> Self {
        Rolling {
            s1: weak & 0xffff,
            s2: weak >> 16,
            len,
        }
    }

    /// `leaving` was the window's first byte, `entering` is its new last one.
    #[inline(always)]
    pub fn roll(&mut self, leaving: u8, entering: u8) {
        let leaving = signed(leaving);
        self.s1 = self.s1.wrapping_sub(leaving).wrapping_add(signed(entering));
        self.s2 = self
            .s2
            .wrapping_sub(leaving.wrapping_mul(self.len))
            .wrapping_add(self.s1);
    }

    /// Bytes of the window.
    pub fn window(&self) -> u32 {
        self.len
    }

    /// The weak sum of the bytes in the window.
    #[inline(always)]
    pub fn weak(&self) -> u32 {
        pack(self.s1, self.s2)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Bytes of a step.
    const LANES: usize = 32;

    /// 32 bytes a step.  Bytes are taken as unsigned, 128 too large each; what that adds is subtracted in the end.
    #[target_feature(enable = "avx2")]
    pub fn weak(block: &[u8]) -> u32 {
        let (steps, tail) = block.as_chunks::<LANES>();
        let zero = _mm256_setzero_si256();
        let ones = _mm256_set1_epi16(1);
        let flip = _mm256_set1_epi8(i8::MIN);
        let weights = _mm256_setr_epi8(
            32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5,
            4, 3, 2, 1,
        );
        // Sums so far; sums of the sums before each step; weighted sums within the steps.
        let (mut sum, mut before, mut within) = (zero, zero, zero);
        for step in steps {
            // SAFETY: the load is unaligned, and a step has the 32 bytes that it reads.
            let bytes = _mm256_xor_si256(unsafe { _mm256_loadu_si256(step.as_ptr().cast()) }, flip);
            before = _mm256_add_epi32(before, sum);
            sum = _mm256_add_epi32(sum, _mm256_sad_epu8(bytes, zero));
            // A pair is at most 255 * (32 + 31), which fits in 16 bits.
            within = _mm256_add_epi32(within, _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, weights), ones));
        }
        let n = (steps.len() * LANES) as u32;
        let s1 = total(sum).wrapping_sub(n.wrapping_mul(128));
        // 128 for each byte, as often as it is counted: n (n + 1) / 2 times, computed before it can overflow.
        let counted = (u64::from(n) * (u64::from(n) + 1) / 2) as u32;
        let s2 = total(before)
            .wrapping_mul(LANES as u32)
            .wrapping_add(total(within))
            .wrapping_sub(counted.wrapping_mul(128));
        let (s1, s2) = super::sums(tail, s1, s2);
        super::pack(s1, s2)
    }

    #[target_feature(enable = "avx2")]
    fn total(lanes: __m256i) -> u32 {
        let four = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
        let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
        (_mm_cvtsi128_si32(two) as u32).wrapping_add(_mm_extract_epi32::<1>(two) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(block: &[u8]) -> u32 {
        let (s1, s2) = sums(block, 0, 0);
        pack(s1, s2)
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len as u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as u8)
            .collect()
    }

    #[test]
    fn fast_is_plain_at_every_length() {
        let data = noise(4096);
        for len in (0..200).chain([704, 1000, 4095, 4096]) {
            assert_eq!(weak(&data[..len]), plain(&data[..len]), "{len} bytes");
        }
        for extreme in [0x00, 0x7f, 0x80, 0xff] {
            let data = vec![extreme; 131_072 + 7];
            assert_eq!(weak(&data), plain(&data));
        }
    }

    #[test]
    fn two_slices_are_one_block() {
        let data = noise(3000);
        for cut in [0, 1, 31, 32, 1500, 2999, 3000] {
            assert_eq!(weak_of_two(&data[..cut], &data[cut..]), weak(&data));
        }
    }

    #[test]
    fn rolling_is_summing_again() {
        let data = noise(5000);
        for len in [1, 2, 31, 64, 704, 4999] {
            let mut rolling = Rolling::new(weak(&data[..len]), len as u32);
            for start in 1..=data.len() - len {
                rolling.roll(data[start - 1], data[start + len - 1]);
                assert_eq!(rolling.weak(), weak(&data[start..start + len]));
            }
        }
    }
}
