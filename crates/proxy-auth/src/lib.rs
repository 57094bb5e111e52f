//! Authentication at proxies: the messages of NTLM, Kerberos and SPNEGO. Bytes in, bytes out: no I/O, no clock.
//!
//! ```text
//! NTLM        NEGOTIATE ->   <- CHALLENGE   AUTHENTICATE ->                   to the proxy      [MS-NLMP]
//! Kerberos    AS-REQ, TGS-REQ -> KDC                                          RFC 4120
//!             AP-REQ in a SPNEGO token ->                                     to the proxy      RFC 4559
//! ```
//!
//! Random numbers come from the caller, too, so that the tests can use the published vectors. Who connects to the
//! proxy and to the KDC is the caller's matter.
//!
//! Left out, because they are weak or because no proxy needs them: NTLMv1 and LM, RC4 and DES in Kerberos, signing
//! and sealing, delegation, mutual authentication (the response to CONNECT has no field for it), and other realms
//! than the user's.

mod der;
pub mod kerberos;
pub mod ntlm;
mod secret;
mod spnego;
#[cfg(test)]
mod testing;

pub use secret::SecretBytes;
