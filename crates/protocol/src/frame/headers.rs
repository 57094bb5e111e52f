//! A header section as one block of bytes, so that it passes through the process without a copy of each
//! field.
//!
//! ```text
//! block := *( name-length u16 BE, value-length u16 BE, name, value )
//! ```
//!
//! Order and repeated fields are preserved; names and values are bytes. This module only guarantees
//! that a block can be read to its end; the users of HTTP check names and values.

use super::FrameError;
use crate::limits::{HEAD_MAX_BYTES, HEADERS_MAX};
use bytes::Bytes;

/// Header fields in order, in a well-formed block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    block: Bytes,
    count: usize,
}

impl Headers {
    /// Checks a block from the wire.
    ///
    /// # Errors
    /// [`FrameError::Headers`] when a length points past the end or a name is empty,
    /// [`FrameError::TooManyHeaders`] above [`HEADERS_MAX`] fields, [`FrameError::TooLarge`] when
    /// the block does not fit a head.
    pub fn from_block(block: Bytes) -> Result<Self, FrameError> {
        if block.len() > HEAD_MAX_BYTES {
            return Err(FrameError::TooLarge);
        }
        let mut rest: &[u8] = &block;
        let mut count = 0;
        while !rest.is_empty() {
            let (name, _, after) = split(rest).ok_or(FrameError::Headers)?;
            if name.is_empty() {
                return Err(FrameError::Headers);
            }
            count += 1;
            if count > HEADERS_MAX {
                return Err(FrameError::TooManyHeaders);
            }
            rest = after;
        }
        Ok(Self { block, count })
    }

    /// Returns the fields in order: (name, value).
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest: &[u8] = &self.block;
        std::iter::from_fn(move || {
            let (name, value, after) = split(rest)?;
            rest = after;
            Some((name, value))
        })
    }

    /// Returns the bytes of the block; names and values are slices of it.
    pub fn block(&self) -> &Bytes {
        &self.block
    }

    /// Returns the number of fields.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Drops the first `fields` fields, which take `bytes` bytes of the block.
    pub(super) fn skip(&mut self, bytes: usize, fields: usize) {
        self.block = self.block.slice(bytes..);
        self.count -= fields;
    }
}

fn split(rest: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (lengths, rest) = rest.split_first_chunk::<4>()?;
    let name = usize::from(u16::from_be_bytes([lengths[0], lengths[1]]));
    let value = usize::from(u16::from_be_bytes([lengths[2], lengths[3]]));
    let (name, rest) = rest.split_at_checked(name)?;
    let (value, rest) = rest.split_at_checked(value)?;
    Some((name, value, rest))
}

/// Builds a [`Headers`] field by field.
#[derive(Debug, Default)]
pub struct HeadersBuilder {
    block: Vec<u8>,
    count: usize,
}

impl HeadersBuilder {
    /// Creates a builder with capacity for about `fields` fields.
    pub fn with_capacity(fields: usize) -> Self {
        Self {
            block: Vec::with_capacity(fields * 48),
            count: 0,
        }
    }

    /// Appends a field.
    ///
    /// # Errors
    /// [`FrameError::TooManyHeaders`] above [`HEADERS_MAX`] fields, [`FrameError::TooLarge`] when
    /// the block would no longer fit a head, [`FrameError::Headers`] for an empty name.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), FrameError> {
        if name.is_empty() {
            return Err(FrameError::Headers);
        }
        if self.count == HEADERS_MAX {
            return Err(FrameError::TooManyHeaders);
        }
        if self.block.len() + 4 + name.len() + value.len() > HEAD_MAX_BYTES {
            return Err(FrameError::TooLarge);
        }
        let name_bytes = u16::try_from(name.len()).map_err(|_| FrameError::TooLarge)?;
        let value_bytes = u16::try_from(value.len()).map_err(|_| FrameError::TooLarge)?;
        self.block.extend_from_slice(&name_bytes.to_be_bytes());
        self.block.extend_from_slice(&value_bytes.to_be_bytes());
        self.block.extend_from_slice(name);
        self.block.extend_from_slice(value);
        self.count += 1;
        Ok(())
    }

    /// Appends all fields of a block.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(super) fn append(&mut self, headers: &Headers) -> Result<(), FrameError> {
        if self.count + headers.count > HEADERS_MAX {
            return Err(FrameError::TooManyHeaders);
        }
        if self.block.len() + headers.block.len() > HEAD_MAX_BYTES {
            return Err(FrameError::TooLarge);
        }
        self.block.extend_from_slice(&headers.block);
        self.count += headers.count;
        Ok(())
    }

    /// Returns the finished block.
    pub fn build(self) -> Headers {
        Headers {
            block: self.block.into(),
            count: self.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_order_and_repeats() {
        let mut builder = HeadersBuilder::default();
        for (name, value) in [("set-cookie", "a=1"), ("x", ""), ("set-cookie", "b=\u{e9}")] {
            builder.push(name.as_bytes(), value.as_bytes()).unwrap();
        }
        let headers = Headers::from_block(builder.build().block().clone()).unwrap();
        let fields: Vec<_> = headers.iter().collect();
        assert_eq!(headers.len(), 3);
        assert_eq!(fields[0], (&b"set-cookie"[..], &b"a=1"[..]));
        assert_eq!(fields[2].1, "b=\u{e9}".as_bytes());
    }

    #[test]
    fn length_past_the_end_is_rejected() {
        for block in [
            &b"\0"[..],
            b"\0\x01\0\x05ab",
            b"\0\0\0\x01v",
            b"\xff\xff\xff\xffx",
        ] {
            assert_eq!(
                Headers::from_block(Bytes::copy_from_slice(block)),
                Err(FrameError::Headers)
            );
        }
    }

    #[test]
    fn field_count_is_bounded_in_both_directions() {
        let mut builder = HeadersBuilder::default();
        for _ in 0..HEADERS_MAX {
            builder.push(b"a", b"").unwrap();
        }
        assert_eq!(builder.push(b"a", b""), Err(FrameError::TooManyHeaders));
        let mut block = builder.build().block().to_vec();
        block.extend_from_slice(b"\0\x01\0\0a");
        assert_eq!(
            Headers::from_block(block.into()),
            Err(FrameError::TooManyHeaders)
        );
    }
}
