//! The request of a stored call, in the form that is encrypted at rest.
//!
//! ```text
//! 0x01, length u32 BE, JSON {url, timeout_ms, credential?}, length u32 BE, header block, body
//! ```

use bytes::Bytes;
use protocol::frame::Headers;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;

/// The request of a stored call. Its `Debug` shows nothing: a request may have secrets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoredRequest {
    /// URL, timeout and credential.
    pub about: About,
    /// The caller's header fields.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
}

/// The part of a request that is encoded as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// The target's URL.
    pub url: String,
    /// Time limit of an attempt, in milliseconds.
    pub timeout_ms: u32,
    /// Name of the credential that the bridge adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl std::fmt::Debug for StoredRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoredRequest")
    }
}

impl StoredRequest {
    /// Returns the encoded request.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let about = serde_json::to_vec(&self.about).unwrap_or_default();
        let block = self.headers.block();
        let mut out = Vec::with_capacity(9 + about.len() + block.len() + self.body.len());
        out.push(VERSION);
        for part in [&about[..], &block[..]] {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(part);
        }
        out.extend_from_slice(&self.body);
        out
    }

    /// Decodes a request; `None` if it is incomplete or has another version.
    pub(crate) fn decode(bytes: Vec<u8>) -> Option<Self> {
        let mut rest = Bytes::from(bytes);
        if rest.is_empty() || rest.split_to(1)[0] != VERSION {
            return None;
        }
        let about = part(&mut rest)?;
        let block = part(&mut rest)?;
        Some(Self {
            about: serde_json::from_slice(&about).ok()?,
            headers: Headers::from_block(block).ok()?,
            body: rest,
        })
    }
}

fn part(rest: &mut Bytes) -> Option<Bytes> {
    let length = rest.first_chunk::<4>().copied()?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    let all = length.checked_add(4).filter(|all| *all <= rest.len())?;
    Some(rest.split_to(all).slice(4..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    #[test]
    fn encoded_request_is_decoded_only_whole() {
        let mut map = HeaderMap::new();
        map.append("x-a", "1".parse().unwrap());
        map.append("x-a", "2".parse().unwrap());
        for body in [&b""[..], b"{}", &[0xff; 70_000]] {
            let request = StoredRequest {
                about: About {
                    url: "http://ci.corp.example/hook?x=1".into(),
                    timeout_ms: 30_000,
                    credential: Some("ci".into()),
                },
                headers: transport::http::to_wire(&map, |_| false).unwrap(),
                body: Bytes::copy_from_slice(body),
            };
            let bytes = request.encode();
            assert_eq!(StoredRequest::decode(bytes.clone()), Some(request.clone()));
            let head = bytes.len() - body.len();
            for cut in 0..head {
                assert!(
                    StoredRequest::decode(bytes[..cut].to_vec()).is_none(),
                    "{cut}"
                );
            }
            assert_eq!(format!("{request:?}"), "StoredRequest");
        }
    }
}
