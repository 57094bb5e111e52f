//! The first token of SPNEGO (RFC 4178), with Kerberos as the only mechanism.

use crate::der::{self, OCTET_STRING, OID, SEQUENCE};

/// 1.3.6.1.5.5.2.
const SPNEGO: &[u8] = &[0x2b, 6, 1, 5, 5, 2];

/// 1.2.840.113554.1.2.2.
const KERBEROS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 2];

/// The token id of an AP-REQ (RFC 4121, 4.1).
const AP_REQUEST: [u8; 2] = [1, 0];

/// Wraps an AP-REQ.
pub(crate) fn init(ap_request: &[u8]) -> Vec<u8> {
    let mechanism = der::element(OID, KERBEROS);
    let token = der::nested(der::application(0), &[&mechanism, &AP_REQUEST, ap_request]);
    let init = der::nested(
        SEQUENCE,
        &[
            &der::field(0, &der::element(SEQUENCE, &mechanism)),
            &der::field(2, &der::element(OCTET_STRING, &token)),
        ],
    );
    let spnego = der::element(OID, SPNEGO);
    der::nested(der::application(0), &[&spnego, &der::field(0, &init)])
}
