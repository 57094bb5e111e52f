//! What the target `frame_decode` does with its input; the ordinary tests replay its corpus here.

use bytes::Bytes;
use protocol::frame::Frame;

/// Bytes decode to an error, to nothing, or to a frame that is not larger than they are and that
/// decodes to itself.
pub(crate) fn frame_decode(data: &[u8]) {
    if let Ok(Some(frame)) = Frame::decode(Bytes::copy_from_slice(data)) {
        let again = frame.encode().expect("what decodes also encodes");
        assert!(again.len() <= data.len(), "the frame grew");
        assert_eq!(Frame::decode(again), Ok(Some(frame)));
    }
}
