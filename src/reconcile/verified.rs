//! Bytes on their way to a host, held against their sum: what was damaged in the image store is not spread.

use std::io::{self, ErrorKind, Read};

use crate::domain::checksum::Checksum;

/// Reads `length` bytes of a source whose sum is known, and fails instead of giving the last of them where they have another.
pub struct Verified<'a, R> {
    source: R,
    left: u64,
    sum: Checksum,
    /// Lower-case hex.
    expected: &'a str,
}

impl<'a, R: Read> Verified<'a, R> {
    pub fn new(source: R, length: u64, expected: &'a str) -> Self {
        Self { source, left: length, sum: Checksum::default(), expected }
    }
}

impl<R: Read> Read for Verified<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.source.read(&mut buffer[..room])?;
        self.sum.update(&buffer[..read]);
        self.left -= read as u64;
        let wrong = |message| Err(io::Error::new(ErrorKind::InvalidData, message));
        if read == 0 && room > 0 {
            return wrong(format!("{} bytes are missing", self.left));
        }
        if read > 0 && self.left == 0 {
            let sum = self.sum.clone().hex();
            if sum != self.expected {
                return wrong(format!("they have the SHA-256 {sum} and not {}", self.expected));
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn bytes_of_another_sum_do_not_come_to_their_end() {
        let mut whole = Vec::new();
        let read = Verified::new(&b"abcdef"[..], 3, ABC).read_to_end(&mut whole);
        assert_eq!((read.expect("whole"), whole.as_slice()), (3, &b"abc"[..]));
        for damaged in ["abd", "ab"] {
            let read = Verified::new(damaged.as_bytes(), 3, ABC).read_to_end(&mut Vec::new());
            assert_eq!(read.expect_err(damaged).kind(), ErrorKind::InvalidData);
        }
    }
}
