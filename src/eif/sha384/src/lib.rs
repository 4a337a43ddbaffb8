//! SHA-384 (FIPS 180-4). Half of a build is this hash: PCR0 and PCR2 are two of them over almost the same bytes.
//!
//! On x86_64 CPUs with AVX2 and BMI2 the blocks are compressed here: the message schedules of two blocks at a time in
//! vectors, between the rounds of the first. That is OpenSSL's plan, in safe Rust; it needs two thirds of the
//! instructions that `sha2` needs, which does the work everywhere else. `docs/speed.md` has the numbers; the test holds
//! one to the other.

use std::fmt;

use multiversion::multiversion;
use multiversion::target::match_target;
use sha2::block_api::compress512;

/// Bytes of a SHA-384 value.
pub const SIZE: usize = 48;

/// Bytes that are compressed at a time.
const BLOCK: usize = 128;

/// A running SHA-384.
#[derive(Clone)]
pub struct Sha384 {
    state: [u64; 8],
    /// The beginning of the next block.
    tail: [u8; BLOCK],
    length: u128,
}

impl Default for Sha384 {
    fn default() -> Self {
        Self::new()
    }
}

impl Sha384 {
    /// The state before the first byte.
    pub fn new() -> Self {
        // FIPS 180-4, 5.3.4.
        let state = [
            0xcbbb_9d5d_c105_9ed8,
            0x629a_292a_367c_d507,
            0x9159_015a_3070_dd17,
            0x152f_ecd8_f70e_5939,
            0x6733_2667_ffc0_0b31,
            0x8eb4_4a87_6858_1511,
            0xdb0c_2e0d_64f9_8fa7,
            0x47b5_481d_befa_4fa4,
        ];
        Self { state, tail: [0; BLOCK], length: 0 }
    }

    /// Adds bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let filled = self.filled();
        self.length += bytes.len() as u128;
        if filled > 0 {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - filled));
            self.tail[filled..filled + now.len()].copy_from_slice(now);
            if filled + now.len() < BLOCK {
                return;
            }
            compress(&mut self.state, &[self.tail]);
            bytes = later;
        }
        let (blocks, rest) = bytes.as_chunks();
        compress(&mut self.state, blocks);
        self.tail[..rest.len()].copy_from_slice(rest);
    }

    /// The digest of all bytes added.
    pub fn finish(mut self) -> [u8; SIZE] {
        let filled = self.filled();
        self.tail[filled] = 0x80;
        self.tail[filled + 1..].fill(0);
        // No room for the length, which has 16 bytes.
        if filled >= BLOCK - 16 {
            compress(&mut self.state, &[self.tail]);
            self.tail.fill(0);
        }
        self.tail[BLOCK - 16..].copy_from_slice(&(self.length * 8).to_be_bytes());
        compress(&mut self.state, &[self.tail]);
        let mut digest = [0; SIZE];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        digest
    }

    /// Bytes in the tail.
    fn filled(&self) -> usize {
        (self.length % BLOCK as u128) as usize
    }
}

impl fmt::Debug for Sha384 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha384")
    }
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn compress(state: &mut [u64; 8], blocks: &[[u8; BLOCK]]) {
    match_target! {
        "x86_64+avx2+bmi1+bmi2" => {
            let (pairs, last) = blocks.as_chunks();
            vectors::compress(state, pairs);
            compress512(state, last);
        }
        _ => compress512(state, blocks),
    }
}

#[cfg(target_arch = "x86_64")]
mod vectors {
    use std::arch::x86_64::*;

    use super::BLOCK;

    /// W + K of all rounds of a block.
    type Schedule = [u64; 80];

    /// One round (FIPS 180-4, 6.4.2) on renamed registers, so that nothing moves. `$bc` is b ^ c and becomes that of the
    /// next round: then maj takes two operations in place of four.
    macro_rules! round {
        ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $bc:ident, $w:expr) => {
            let sigma = $e.rotate_right(14) ^ $e.rotate_right(18) ^ $e.rotate_right(41);
            $h = $h.wrapping_add($w).wrapping_add(sigma).wrapping_add($e & $f).wrapping_add(!$e & $g);
            $d = $d.wrapping_add($h);
            let ab = $a ^ $b;
            let sigma = $a.rotate_right(28) ^ $a.rotate_right(34) ^ $a.rotate_right(39);
            $h = $h.wrapping_add(sigma).wrapping_add(($bc & ab) ^ $b);
            $bc = ab;
        };
    }

    /// Eight rounds from `$at` on, after which the registers have their names again; after each two of them `$between`
    /// of 0, 1, 2, 3. The words are named before the rounds: LLVM adds what was there first at first, so that the sum
    /// which the next round waits for does not wait for a word (6 % of the whole).
    macro_rules! eight {
        ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $bc:ident, $w:ident, $at:expr, $between:ident) => {
            let [w0, w1, w2, w3, w4, w5, w6, w7] =
                [$w[$at], $w[$at + 1], $w[$at + 2], $w[$at + 3], $w[$at + 4], $w[$at + 5], $w[$at + 6], $w[$at + 7]];
            round!($a $b $c $d $e $f $g $h, $bc, w0);
            round!($h $a $b $c $d $e $f $g, $bc, w1);
            $between!(0);
            round!($g $h $a $b $c $d $e $f, $bc, w2);
            round!($f $g $h $a $b $c $d $e, $bc, w3);
            $between!(1);
            round!($e $f $g $h $a $b $c $d, $bc, w4);
            round!($d $e $f $g $h $a $b $c, $bc, w5);
            $between!(2);
            round!($c $d $e $f $g $h $a $b, $bc, w6);
            round!($b $c $d $e $f $g $h $a, $bc, w7);
            $between!(3);
        };
    }

    macro_rules! nothing {
        ($step:expr) => {};
    }

    #[expect(unused_assignments, reason = "the last round leaves b ^ c for nobody")]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(super) fn compress(state: &mut [u64; 8], pairs: &[[[u8; BLOCK]; 2]]) {
        let (mut one, mut two) = ([0; 80], [0; 80]);
        for [first, second] in pairs {
            let mut x = [_mm256_setzero_si256(); 8];
            for (step, x) in x.iter_mut().enumerate() {
                *x = load(first, second, step);
                store(*x, step, &mut one, &mut two);
            }
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
            let mut bc = b ^ c;
            for turn in 0..4 {
                let at = 16 * turn;
                macro_rules! extend {
                    ($step:expr) => {
                        let words = next(&mut x, $step);
                        store(words, 8 * turn + 8 + $step, &mut one, &mut two);
                    };
                }
                macro_rules! extend_behind {
                    ($step:expr) => {
                        extend!(4 + $step);
                    };
                }
                eight!(a b c d e f g h, bc, one, at, extend);
                eight!(a b c d e f g h, bc, one, at + 8, extend_behind);
            }
            eight!(a b c d e f g h, bc, one, 64, nothing);
            eight!(a b c d e f g h, bc, one, 72, nothing);
            add(state, [a, b, c, d, e, f, g, h]);
            rounds(state, &two);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn rounds(state: &mut [u64; 8], w: &Schedule) {
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
        let mut bc = b ^ c;
        for turn in 0..10 {
            eight!(a b c d e f g h, bc, w, 8 * turn, nothing);
        }
        add(state, [a, b, c, d, e, f, g, h]);
    }

    #[inline]
    fn add(state: &mut [u64; 8], rounds: [u64; 8]) {
        for (word, by) in state.iter_mut().zip(rounds) {
            *word = word.wrapping_add(by);
        }
    }

    /// Two words of each block, the first block's in the lower half.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(first: &[u8; BLOCK], second: &[u8; BLOCK], step: usize) -> __m256i {
        let [one, two] = [first, second].map(|block| {
            let words = block.as_chunks::<8>().0;
            _mm_set_epi64x(i64::from_le_bytes(words[2 * step + 1]), i64::from_le_bytes(words[2 * step]))
        });
        let swap = _mm_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8);
        _mm256_shuffle_epi8(_mm256_set_m128i(two, one), _mm256_broadcastsi128_si256(swap))
    }

    /// Adds the rounds' constants to two words of each block and puts them into the blocks' schedules.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(words: __m256i, step: usize, one: &mut Schedule, two: &mut Schedule) {
        let [k0, k1] = K[step];
        let sum = _mm256_add_epi64(words, _mm256_broadcastsi128_si256(_mm_set_epi64x(k1, k0)));
        for (schedule, half) in [(one, _mm256_castsi256_si128(sum)), (two, _mm256_extracti128_si256(sum, 1))] {
            schedule[2 * step] = _mm_extract_epi64(half, 0).cast_unsigned();
            schedule[2 * step + 1] = _mm_extract_epi64(half, 1).cast_unsigned();
        }
    }

    /// The next two words of both messages. `x` has the last 16 words, the oldest at `step`: new ones take their place.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn next(x: &mut [__m256i; 8], step: usize) -> __m256i {
        let last = x[(step + 7) % 8];
        let w1 = _mm256_alignr_epi8(x[(step + 1) % 8], x[step], 8);
        let w9 = _mm256_alignr_epi8(x[(step + 5) % 8], x[(step + 4) % 8], 8);
        let xor = |a, b| _mm256_xor_si256(a, b);
        // A rotation by 8 is a shuffle.
        let turn = _mm_setr_epi8(1, 2, 3, 4, 5, 6, 7, 0, 9, 10, 11, 12, 13, 14, 15, 8);
        let rotated = xor(_mm256_srli_epi64(w1, 1), _mm256_slli_epi64(w1, 63));
        let turned = _mm256_shuffle_epi8(w1, _mm256_broadcastsi128_si256(turn));
        let sigma0 = xor(xor(rotated, turned), _mm256_srli_epi64(w1, 7));
        let rotated = xor(_mm256_srli_epi64(last, 19), _mm256_slli_epi64(last, 45));
        let turned = xor(_mm256_srli_epi64(last, 61), _mm256_slli_epi64(last, 3));
        let sigma1 = xor(xor(rotated, turned), _mm256_srli_epi64(last, 6));
        x[step] = _mm256_add_epi64(_mm256_add_epi64(x[step], w9), _mm256_add_epi64(sigma0, sigma1));
        x[step]
    }

    /// FIPS 180-4, 4.2.3, in twos.
    #[rustfmt::skip]
    const K: [[i64; 2]; 40] = {
        const WORDS: [u64; 80] = [
            0x428a_2f98_d728_ae22, 0x7137_4491_23ef_65cd, 0xb5c0_fbcf_ec4d_3b2f, 0xe9b5_dba5_8189_dbbc,
            0x3956_c25b_f348_b538, 0x59f1_11f1_b605_d019, 0x923f_82a4_af19_4f9b, 0xab1c_5ed5_da6d_8118,
            0xd807_aa98_a303_0242, 0x1283_5b01_4570_6fbe, 0x2431_85be_4ee4_b28c, 0x550c_7dc3_d5ff_b4e2,
            0x72be_5d74_f27b_896f, 0x80de_b1fe_3b16_96b1, 0x9bdc_06a7_25c7_1235, 0xc19b_f174_cf69_2694,
            0xe49b_69c1_9ef1_4ad2, 0xefbe_4786_384f_25e3, 0x0fc1_9dc6_8b8c_d5b5, 0x240c_a1cc_77ac_9c65,
            0x2de9_2c6f_592b_0275, 0x4a74_84aa_6ea6_e483, 0x5cb0_a9dc_bd41_fbd4, 0x76f9_88da_8311_53b5,
            0x983e_5152_ee66_dfab, 0xa831_c66d_2db4_3210, 0xb003_27c8_98fb_213f, 0xbf59_7fc7_beef_0ee4,
            0xc6e0_0bf3_3da8_8fc2, 0xd5a7_9147_930a_a725, 0x06ca_6351_e003_826f, 0x1429_2967_0a0e_6e70,
            0x27b7_0a85_46d2_2ffc, 0x2e1b_2138_5c26_c926, 0x4d2c_6dfc_5ac4_2aed, 0x5338_0d13_9d95_b3df,
            0x650a_7354_8baf_63de, 0x766a_0abb_3c77_b2a8, 0x81c2_c92e_47ed_aee6, 0x9272_2c85_1482_353b,
            0xa2bf_e8a1_4cf1_0364, 0xa81a_664b_bc42_3001, 0xc24b_8b70_d0f8_9791, 0xc76c_51a3_0654_be30,
            0xd192_e819_d6ef_5218, 0xd699_0624_5565_a910, 0xf40e_3585_5771_202a, 0x106a_a070_32bb_d1b8,
            0x19a4_c116_b8d2_d0c8, 0x1e37_6c08_5141_ab53, 0x2748_774c_df8e_eb99, 0x34b0_bcb5_e19b_48a8,
            0x391c_0cb3_c5c9_5a63, 0x4ed8_aa4a_e341_8acb, 0x5b9c_ca4f_7763_e373, 0x682e_6ff3_d6b2_b8a3,
            0x748f_82ee_5def_b2fc, 0x78a5_636f_4317_2f60, 0x84c8_7814_a1f0_ab72, 0x8cc7_0208_1a64_39ec,
            0x90be_fffa_2363_1e28, 0xa450_6ceb_de82_bde9, 0xbef9_a3f7_b2c6_7915, 0xc671_78f2_e372_532b,
            0xca27_3ece_ea26_619c, 0xd186_b8c7_21c0_c207, 0xeada_7dd6_cde0_eb1e, 0xf57d_4f7f_ee6e_d178,
            0x06f0_67aa_7217_6fba, 0x0a63_7dc5_a2c8_98a6, 0x113f_9804_bef9_0dae, 0x1b71_0b35_131c_471b,
            0x28db_77f5_2304_7d84, 0x32ca_ab7b_40c7_2493, 0x3c9e_be0a_15c9_bebc, 0x431d_67c4_9c10_0d4c,
            0x4cc5_d4be_cb3e_42b6, 0x597f_299c_fc65_7e2a, 0x5fcb_6fab_3ad6_faec, 0x6c44_198c_4a47_5817,
        ];
        let mut pairs = [[0; 2]; 40];
        let mut at = 0;
        while at < 40 {
            pairs[at] = [WORDS[2 * at].cast_signed(), WORDS[2 * at + 1].cast_signed()];
            at += 1;
        }
        pairs
    };
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::*;

    /// Every length around a few blocks, in pieces of every size.
    #[test]
    fn it_is_sha_384() {
        let bytes: Vec<u8> = (0..2000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for length in (0..700).chain([bytes.len()]) {
            let bytes = &bytes[..length];
            let want: [u8; SIZE] = sha2::Sha384::digest(bytes).into();
            for piece in [1, 7, 127, 128, 129, 256, 1000, 2000] {
                let mut hash = Sha384::new();
                bytes.chunks(piece).for_each(|piece| hash.update(piece));
                assert_eq!(hash.finish(), want, "{length} bytes in pieces of {piece}");
            }
        }
    }
}
