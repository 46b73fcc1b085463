//! SHA-256 of bytes that come piece by piece, as image names them.

use sha2::{Digest, Sha256};

/// Of the bytes so far.
#[derive(Debug, Clone, Default)]
pub struct Checksum(Sha256);

impl Checksum {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Lower-case hex, 64 digits.
    pub fn hex(self) -> String {
        let bytes = self.0.finalize();
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_of_all_pieces() {
        let mut sum = Checksum::default();
        sum.update(b"a");
        sum.update(b"bc");
        // FIPS 180-2, appendix B.1.
        assert_eq!(sum.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
