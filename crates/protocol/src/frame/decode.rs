//! Decoding of a frame's payload, by the type in its header.
//!
//! Each type states here whether it belongs to a stream or to the session, which flags it may carry, and
//! how its payload is read. The bytes are hostile; nothing is allocated beyond what they hold.

use super::control::{Report, WireReset, WireVersions};
use super::head::{RequestHead, ResponseHead};
use super::headers::Headers;
use super::{FLAG_END, FLAG_SKIPPABLE, Frame, FrameError, PROOF_BYTES, kind, serial};
use crate::limits::{DATA_MAX_BYTES, HEAD_MAX_BYTES};
use bytes::{Buf, Bytes};

/// The header of a frame, which decides how its payload is decoded.
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) id: u32,
}

impl Header {
    pub(super) fn decode_payload(&self, payload: Bytes) -> Result<Option<Frame>, FrameError> {
        let id = self.id;
        let frame = match self.kind {
            kind::CHALLENGE => Frame::Challenge(self.session_payload(&payload)?),
            kind::HELLO => self.hello(&payload)?,
            kind::WELCOME => Frame::Welcome(self.session_payload(&payload)?),
            kind::REFUSED => Frame::Refused(self.session_payload(&payload)?),
            kind::OPEN => {
                let (head, body, end) = self.head_and_body(payload)?;
                let head = Box::new(RequestHead::decode(&head)?);
                Frame::Open {
                    id,
                    head,
                    body,
                    end,
                }
            }
            kind::HEAD => {
                let (head, body, end) = self.head_and_body(payload)?;
                let head = ResponseHead::decode(&head)?;
                Frame::Head {
                    id,
                    head,
                    body,
                    end,
                }
            }
            kind::DISPATCHED => {
                self.empty(&payload)?;
                Frame::Dispatched { id }
            }
            kind::DATA => self.data(payload)?,
            kind::TRAILERS => {
                self.on_stream()?;
                // TRAILERS always end their direction. A frame without END would leave the state open to
                // interpretation.
                if self.flags != FLAG_END {
                    return Err(self.unknown_flags());
                }
                if payload.len() > HEAD_MAX_BYTES {
                    return Err(FrameError::TooLarge);
                }
                let headers = Headers::from_block(payload)?;
                Frame::Trailers { id, headers }
            }
            kind::CREDIT => {
                let credit = self.stream_payload(&payload)?;
                Frame::Credit { id, credit }
            }
            kind::STOP => {
                self.empty(&payload)?;
                Frame::Stop { id }
            }
            kind::RESET => {
                let wire: WireReset = self.stream_payload(&payload)?;
                let failure = wire.into_failure().ok_or(FrameError::TooLarge)?;
                Frame::Reset { id, failure }
            }
            kind::RESULT => Frame::Result(self.session_payload(&payload)?),
            kind::RESULT_ACK => Frame::ResultAck(self.session_payload(&payload)?),
            kind::PING => Frame::Ping(self.session_payload(&payload)?),
            kind::PONG => Frame::Pong(self.session_payload(&payload)?),
            kind::STATUS => Frame::Status(self.session_payload(&payload)?),
            kind::GOAWAY => Frame::GoAway(self.session_payload(&payload)?),
            kind::REPORT => self.report(&payload)?,
            kind::VERSIONS => self.versions(&payload)?,
            // Neither id nor payload is checked: a later version defines them (W-61).
            _ if self.flags & FLAG_SKIPPABLE != 0 => return Ok(None),
            unknown => return Err(FrameError::UnknownType(unknown)),
        };
        Ok(Some(frame))
    }

    fn unknown_flags(&self) -> FrameError {
        FrameError::UnknownFlags {
            kind: self.kind,
            flags: self.flags,
        }
    }

    fn no_flags(&self) -> Result<(), FrameError> {
        if self.flags == 0 {
            Ok(())
        } else {
            Err(self.unknown_flags())
        }
    }

    fn end_flag(&self) -> Result<bool, FrameError> {
        match self.flags {
            0 => Ok(false),
            FLAG_END => Ok(true),
            _ => Err(self.unknown_flags()),
        }
    }

    fn on_stream(&self) -> Result<(), FrameError> {
        if self.id == 0 {
            return Err(FrameError::WrongStream(self.kind));
        }
        Ok(())
    }

    fn on_session(&self) -> Result<(), FrameError> {
        if self.id != 0 {
            return Err(FrameError::WrongStream(self.kind));
        }
        self.no_flags()
    }

    fn session_payload<'a, T: serde::Deserialize<'a>>(
        &self,
        payload: &'a [u8],
    ) -> Result<T, FrameError> {
        self.on_session()?;
        serial::decode(payload)
    }

    /// A frame of the session that older peers skip.
    fn on_session_skippable(&self) -> Result<(), FrameError> {
        if self.id != 0 {
            return Err(FrameError::WrongStream(self.kind));
        }
        if self.flags != FLAG_SKIPPABLE {
            return Err(self.unknown_flags());
        }
        Ok(())
    }

    fn versions(&self, payload: &[u8]) -> Result<Frame, FrameError> {
        self.on_session_skippable()?;
        let wire: WireVersions = serial::decode(payload)?;
        let versions = wire.into_versions().ok_or(FrameError::TooLarge)?;
        Ok(Frame::Versions(Box::new(versions)))
    }

    fn report(&self, payload: &[u8]) -> Result<Frame, FrameError> {
        self.on_session_skippable()?;
        let report: Box<Report> = serial::decode(payload)?;
        if !report.fits() {
            return Err(FrameError::TooLarge);
        }
        Ok(Frame::Report(report))
    }

    fn stream_payload<'a, T: serde::Deserialize<'a>>(
        &self,
        payload: &'a [u8],
    ) -> Result<T, FrameError> {
        self.on_stream()?;
        self.no_flags()?;
        serial::decode(payload)
    }

    fn empty(&self, payload: &[u8]) -> Result<(), FrameError> {
        self.on_stream()?;
        self.no_flags()?;
        if payload.is_empty() {
            Ok(())
        } else {
            Err(FrameError::TrailingBytes)
        }
    }

    fn data(&self, data: Bytes) -> Result<Frame, FrameError> {
        self.on_stream()?;
        let end = self.end_flag()?;
        if data.len() > DATA_MAX_BYTES {
            return Err(FrameError::TooLarge);
        }
        // An empty frame would cost the receiver work without using up any window: a free flood.
        if data.is_empty() && !end {
            return Err(FrameError::EmptyData);
        }
        Ok(Frame::Data {
            id: self.id,
            data,
            end,
        })
    }

    fn hello(&self, payload: &Bytes) -> Result<Frame, FrameError> {
        self.on_session()?;
        // The proof is not a field: it signs the bytes of the fields, and cannot be among them.
        let Some((signed, proof)) = payload.split_last_chunk::<PROOF_BYTES>() else {
            return Err(FrameError::Short);
        };
        Ok(Frame::Hello {
            hello: Box::new(serial::decode(signed)?),
            body: payload.slice_ref(signed),
            proof: *proof,
        })
    }

    fn head_and_body(&self, mut payload: Bytes) -> Result<(Bytes, Bytes, bool), FrameError> {
        self.on_stream()?;
        let end = self.end_flag()?;
        if payload.len() < 4 {
            return Err(FrameError::Short);
        }
        let head_bytes = usize::try_from(payload.get_u32()).map_err(|_| FrameError::TooLarge)?;
        if head_bytes > HEAD_MAX_BYTES {
            return Err(FrameError::TooLarge);
        }
        // The stated length is compared with the bytes that are there before anything is sliced or
        // allocated.
        if head_bytes > payload.len() {
            return Err(FrameError::Short);
        }
        let head = payload.split_to(head_bytes);
        if payload.len() > DATA_MAX_BYTES {
            return Err(FrameError::TooLarge);
        }
        Ok((head, payload, end))
    }
}
