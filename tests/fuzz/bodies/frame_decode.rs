//! The body of the target `frame_decode`. The ordinary tests replay its corpus with it.

use bytes::Bytes;
use protocol::frame::Frame;

/// Checks that bytes decode to an error, to nothing, or to a frame that is not larger and that round-trips.
pub(crate) fn frame_decode(data: &[u8]) {
    if let Ok(Some(frame)) = Frame::decode(Bytes::copy_from_slice(data)) {
        let again = frame.encode().expect("a decoded frame encodes");
        assert!(again.len() <= data.len(), "the frame grew");
        assert_eq!(Frame::decode(again), Ok(Some(frame)));
    }
}
