//! The serializer of control payloads; no other module uses it.
//!
//! Control payloads are bincode 2 in its standard configuration: little-endian, variable-length
//! integers. Both sides check the byte limit of a payload, and bytes left over are an error. DATA does
//! not use it.

use super::FrameError;
use crate::limits::HEAD_MAX_BYTES;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// The limit of bincode's own byte count while it decodes a payload of [`HEAD_MAX_BYTES`]. It also
/// bounds the largest single allocation for a false length. bincode counts every number at its full
/// size, not at its size on the wire: 16 KiB more are enough for the longest lists.
const DECODE_COUNT_MAX: usize = HEAD_MAX_BYTES + 16 * 1024;

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<DECODE_COUNT_MAX>,
> = bincode::config::standard().with_limit::<DECODE_COUNT_MAX>();

/// Appends the encoding of `value`.
///
/// # Errors
/// [`FrameError::TooLarge`] when it is longer than [`HEAD_MAX_BYTES`].
pub(crate) fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<usize, FrameError> {
    let before = out.len();
    // bincode applies its limit only to decoding, so the encoded length is checked here.
    bincode::serde::encode_into_std_write(value, out, CONFIG).map_err(|_| FrameError::TooLarge)?;
    let written = out.len() - before;
    if written > HEAD_MAX_BYTES {
        out.truncate(before);
        return Err(FrameError::TooLarge);
    }
    Ok(written)
}

/// Serializes bytes in one piece. The encoding equals that of a list of bytes, which serde would write
/// byte by byte.
pub(super) fn as_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// Decodes all of `bytes`.
///
/// # Errors
/// [`FrameError::TooLarge`] above [`HEAD_MAX_BYTES`], [`FrameError::Payload`] when they are not the
/// encoding of a `T`, [`FrameError::TrailingBytes`] when some are left over.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, FrameError> {
    if bytes.len() > HEAD_MAX_BYTES {
        return Err(FrameError::TooLarge);
    }
    let (value, used) =
        bincode::serde::borrow_decode_from_slice(bytes, CONFIG).map_err(|_| FrameError::Payload)?;
    // bincode ignores bytes after a value; on this wire they are an error (W-60).
    if used != bytes.len() {
        return Err(FrameError::TrailingBytes);
    }
    Ok(value)
}

/// A list of at most `MAX` items. Decoding allocates as items arrive, never by a stated length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounded<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Bounded<T, MAX> {
    /// Creates a list of the first `MAX` items.
    pub fn truncated(items: impl IntoIterator<Item = T>) -> Self {
        Self(items.into_iter().take(MAX).collect())
    }

    /// Returns the items.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> Default for Bounded<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> std::ops::Deref for Bounded<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Serialize, const MAX: usize> Serialize for Bounded<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Bounded<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == MAX {
                        return Err(de::Error::custom("too many items"));
                    }
                    items.push(item);
                }
                Ok(Bounded(items))
            }
        }

        deserializer.deserialize_seq(Items(PhantomData))
    }
}
