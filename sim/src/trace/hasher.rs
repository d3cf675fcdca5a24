//! The hash of a trace: 64 bits, fast on small integers, the same in every process of one build.

use std::hash::Hasher;

/// Two multiply-and-rotate lanes, folded at the end. Not meant to withstand malice, only accident.
#[derive(Clone, Debug)]
pub struct TraceHasher {
    a: u64,
    b: u64,
}

impl Default for TraceHasher {
    fn default() -> Self {
        Self { a: 0x243f_6a88_85a3_08d3, b: 0x1319_8a2e_0370_7344 }
    }
}

impl TraceHasher {
    /// The hash so far.
    #[must_use]
    pub fn digest(&self) -> u64 {
        crate::random::split_mix(self.a ^ crate::random::split_mix(self.b))
    }
}

impl Hasher for TraceHasher {
    fn finish(&self) -> u64 {
        self.digest()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.write_u64(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.a = (self.a ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        self.b = self.b.rotate_left(23).wrapping_add(self.a).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }
}
