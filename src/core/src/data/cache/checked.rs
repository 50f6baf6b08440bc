//! Reading with a checksum.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// A reader that keeps the checksum of what went through it. None stands for an end that came too soon.
pub struct Checked {
    input: BufReader<File>,
    left: u64,
    sum: crc32fast::Hasher,
}

impl Checked {
    pub fn open(file: &Path) -> Option<Checked> {
        let input = File::open(file).ok()?;
        let left = input.metadata().ok()?.len();
        Some(Checked { input: BufReader::new(input), left, sum: crc32fast::Hasher::new() })
    }

    pub fn has_left(&self, values: u64) -> bool {
        self.left == values + 4
    }

    pub fn fill(&mut self, buffer: &mut [u8]) -> Option<()> {
        self.left = self.left.checked_sub(buffer.len() as u64)?;
        self.input.read_exact(buffer).ok()?;
        self.sum.update(buffer);
        Some(())
    }

    pub fn bytes(&mut self, length: usize) -> Option<Vec<u8>> {
        // Before memory is set aside: a damaged length may ask for anything.
        if length as u64 > self.left {
            return None;
        }
        let mut buffer = vec![0; length];
        self.fill(&mut buffer)?;
        Some(buffer)
    }

    pub fn number(&mut self) -> Option<u64> {
        let mut buffer = [0; 8];
        self.fill(&mut buffer)?;
        Some(u64::from_le_bytes(buffer))
    }

    pub fn ends_well(mut self) -> bool {
        let sum = self.sum.clone().finalize();
        let mut stored = [0; 4];
        self.input.read_exact(&mut stored).is_ok() && u32::from_le_bytes(stored) == sum
    }
}
