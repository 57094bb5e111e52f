//! AES-CBC with ciphertext stealing, and zeros as the initial vector (RFC 3962, 5).

use aes::cipher::{Array, BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _};
use aes::{Aes128, Aes256};
use zeroize::Zeroize as _;

pub(super) const BLOCK_BYTES: usize = 16;

pub(super) type Block = [u8; BLOCK_BYTES];

/// The cipher with a key.
pub(super) enum Aes {
    Short(Box<Aes128>),
    Long(Box<Aes256>),
}

impl Aes {
    pub(super) fn new(key: &[u8]) -> Self {
        match <[u8; 16]>::try_from(key) {
            Ok(key) => Self::Short(Box::new(Aes128::new(&Array(key)))),
            Err(_) => {
                let key = <[u8; 32]>::try_from(key).expect("a key has 16 or 32 bytes");
                Self::Long(Box::new(Aes256::new(&Array(key))))
            }
        }
    }

    pub(super) fn block(&self, block: &mut Block) {
        let mut array = Array(*block);
        match self {
            Self::Short(cipher) => cipher.encrypt_block(&mut array),
            Self::Long(cipher) => cipher.encrypt_block(&mut array),
        }
        *block = array.0;
    }

    fn block_back(&self, block: &mut Block) {
        let mut array = Array(*block);
        match self {
            Self::Short(cipher) => cipher.decrypt_block(&mut array),
            Self::Long(cipher) => cipher.decrypt_block(&mut array),
        }
        *block = array.0;
    }

    /// Encrypts at least one block.
    pub(super) fn encrypt(&self, data: &mut [u8]) {
        let len = data.len();
        let mut padded = data.to_vec();
        padded.resize(len.next_multiple_of(BLOCK_BYTES), 0);
        let mut before = [0; BLOCK_BYTES];
        for chunk in padded.chunks_exact_mut(BLOCK_BYTES) {
            let mut block = xor(chunk, &before);
            self.block(&mut block);
            chunk.copy_from_slice(&block);
            before = block;
        }
        // The last two blocks change places, and the one that is then last is cut.
        if let Some(second_last) = padded.len().checked_sub(2 * BLOCK_BYTES) {
            let (first, last) = padded[second_last..].split_at_mut(BLOCK_BYTES);
            first.swap_with_slice(last);
        }
        data.copy_from_slice(&padded[..len]);
    }

    /// Decrypts at least one block.
    pub(super) fn decrypt(&self, data: &mut [u8]) {
        let len = data.len();
        let whole = len.next_multiple_of(BLOCK_BYTES);
        let mut padded = data.to_vec();
        if let Some(second_last) = whole.checked_sub(2 * BLOCK_BYTES) {
            // The cut part of the last block is in the decrypted block before it.
            let mut block = as_block(&padded[second_last..]);
            self.block_back(&mut block);
            let cut = len - (second_last + BLOCK_BYTES);
            padded.extend_from_slice(&block[cut..]);
            let (first, last) = padded[second_last..].split_at_mut(BLOCK_BYTES);
            first.swap_with_slice(last);
        }
        let mut before = [0; BLOCK_BYTES];
        for chunk in padded.chunks_exact_mut(BLOCK_BYTES) {
            let ciphertext = as_block(chunk);
            let mut block = ciphertext;
            self.block_back(&mut block);
            chunk.copy_from_slice(&xor(&block, &before));
            before = ciphertext;
        }
        data.copy_from_slice(&padded[..len]);
        padded.zeroize();
    }
}

pub(super) fn as_block(bytes: &[u8]) -> Block {
    let mut block = [0; BLOCK_BYTES];
    block.copy_from_slice(&bytes[..BLOCK_BYTES]);
    block
}

fn xor(bytes: &[u8], other: &Block) -> Block {
    let mut block = *other;
    for (one, byte) in block.iter_mut().zip(bytes) {
        *one ^= byte;
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;

    /// RFC 3962, appendix B.
    #[test]
    fn ciphertext_stealing_is_that_of_the_rfc() {
        let aes = Aes::new(b"chicken teriyaki");
        let text = b"I would like the General Gau's Chicken, please, and wonton soup.";
        for (len, expected) in [
            (17, "c6353568f2bf8cb4d8a580362da7ff7f 97"),
            (
                31,
                "fc00783e0efdb2c1d445d4c8eff7ed22 97687268d6ecccc0c07b25e25ecfe5",
            ),
            (
                32,
                "39312523a78662d5be7fcbcc98ebf5a8 97687268d6ecccc0c07b25e25ecfe584",
            ),
            (
                47,
                "97687268d6ecccc0c07b25e25ecfe584 b3fffd940c16a18c1b5549d2f838029e 39312523a78662d5be7fcbcc98ebf5",
            ),
            (
                64,
                "97687268d6ecccc0c07b25e25ecfe584 39312523a78662d5be7fcbcc98ebf5a8 4807efe836ee89a526730dbc2f7bc840 9dad8bbb96c4cdc03bc103e1a194bbd8",
            ),
        ] {
            let mut data = text[..len].to_vec();
            aes.encrypt(&mut data);
            assert_eq!(data, hex(expected), "{len}");
            aes.decrypt(&mut data);
            assert_eq!(data, text[..len], "{len}");
        }
    }
}
