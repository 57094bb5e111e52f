//! DER (X.690), as far as Kerberos and SPNEGO need it: a writer that nests, and a reader with bounds.
//!
//! Lengths have up to four bytes, and tags one: no message has others.

/// A tag of the universal class.
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const GENERAL_STRING: u8 = 0x1b;
pub(crate) const SEQUENCE: u8 = 0x30;

/// Returns the tag of a context `[number]`, constructed.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// Returns the tag of an application `[number]`, constructed.
pub(crate) const fn application(number: u8) -> u8 {
    0x60 | number
}

/// Writes one element.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    out.push(tag);
    match u8::try_from(content.len()) {
        Ok(len) if len < 0x80 => out.push(len),
        _ => {
            let len = content.len().to_be_bytes();
            let zeros = len.iter().take_while(|byte| **byte == 0).count();
            let len = &len[zeros..];
            // A length has at most eight bytes.
            out.push(0x80 | u8::try_from(len.len()).unwrap_or_default());
            out.extend_from_slice(len);
        }
    }
    out.extend_from_slice(content);
    out
}

/// Writes elements one after another, in one with this tag.
pub(crate) fn nested(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    element(tag, &parts.concat())
}

/// Writes a field `[number]` of a sequence.
pub(crate) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    element(context(number), content)
}

/// Writes an integer.
pub(crate) fn integer(value: u32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let zeros = bytes.iter().take(3).take_while(|byte| **byte == 0).count();
    let mut content = bytes[zeros..].to_vec();
    // The first bit is the sign.
    if content[0] & 0x80 != 0 {
        content.insert(0, 0);
    }
    element(INTEGER, &content)
}

/// Reads elements one after another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads an element of any tag: its tag, its content, and the whole of it.
    pub(crate) fn any(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let whole = self.0;
        let (&tag, rest) = whole.split_first()?;
        // Tags of several bytes.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, mut rest) = rest.split_first()?;
        let len = match first {
            0..=0x7f => usize::from(first),
            0x81..=0x84 => {
                let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
                rest = after;
                let len = bytes
                    .iter()
                    .fold(0u32, |len, byte| (len << 8) | u32::from(*byte));
                usize::try_from(len).ok()?
            }
            _ => return None,
        };
        let (content, after) = rest.split_at_checked(len)?;
        self.0 = after;
        Some((tag, content, whole.get(..whole.len() - after.len())?))
    }

    /// Reads an element that must have this tag, and returns its content.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content, _) = self.any()?;
        (found == tag).then_some(content)
    }

    /// Reads an element that must have this tag, as a reader of its content.
    pub(crate) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.expect(tag).map(Self)
    }

    /// Returns the content of the field `[number]`, whose predecessors are skipped. Fields are in order, and
    /// optional ones may be missing.
    pub(crate) fn field(&mut self, number: u8) -> Option<Self> {
        loop {
            let before = *self;
            let (tag, content, _) = self.any()?;
            if tag == context(number) {
                return Some(Self(content));
            }
            if tag > context(number) {
                *self = before;
                return None;
            }
        }
    }

    /// Reads an integer. Negative ones, and those of more than 32 bits, are none.
    pub(crate) fn integer(&mut self) -> Option<u32> {
        match self.expect(INTEGER)? {
            [] => None,
            [first, ..] if first & 0x80 != 0 => None,
            [0, rest @ ..] | rest if rest.len() <= 4 => Some(
                rest.iter()
                    .fold(0, |value, byte| (value << 8) | u32::from(*byte)),
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_keep_their_value() {
        for (value, bytes) in [
            (0, &[2, 1, 0][..]),
            (127, &[2, 1, 127]),
            (128, &[2, 2, 0, 128]),
            (256, &[2, 2, 1, 0]),
            (0xffff_ffff, &[2, 5, 0, 255, 255, 255, 255]),
        ] {
            assert_eq!(integer(value), bytes);
            assert_eq!(Reader::new(bytes).integer(), Some(value));
        }
        for bad in [
            &[2, 0][..],
            &[2, 1, 255],
            &[2, 6, 0, 1, 1, 1, 1, 1],
            &[4, 1, 1],
        ] {
            assert_eq!(Reader::new(bad).integer(), None, "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_short_or_long() {
        for len in [0, 1, 127, 128, 255, 256, 70_000] {
            let content = vec![7; len];
            let mut bytes = element(OCTET_STRING, &content);
            assert_eq!(Reader::new(&bytes).expect(OCTET_STRING), Some(&content[..]));
            bytes.pop();
            assert!(Reader::new(&bytes).expect(OCTET_STRING).is_none());
        }
        assert!(Reader::new(&[4, 0x80, 0, 0]).any().is_none(), "indefinite");
        assert!(Reader::new(&[4, 0x84, 255, 255, 255, 255]).any().is_none());
        assert!(Reader::new(&[0x1f, 1, 1]).any().is_none());
    }

    #[test]
    fn missing_field_is_not_another_one() {
        let bytes = nested(SEQUENCE, &[&field(0, &integer(1)), &field(2, &integer(3))]);
        let mut fields = Reader::new(&bytes).enter(SEQUENCE).unwrap();
        assert!(fields.field(1).is_none());
        assert_eq!(fields.field(2).unwrap().integer(), Some(3));
        assert!(fields.is_empty());
    }
}
