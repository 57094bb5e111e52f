//! The proof of the password ([MS-NLMP], 3.3.2).

use super::utf16;
use crate::SecretBytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::{Digest as _, Md4};
use md5::Md5;
use zeroize::Zeroizing;

/// The key of a user, made of the password.
pub(super) struct Keys {
    response: SecretBytes,
}

/// The proof, and the key that follows from it.
pub(super) struct Proof {
    pub(super) response: Vec<u8>,
    pub(super) session_key: SecretBytes,
}

impl Keys {
    /// Makes the key (`NTOWFv2`). `password` is in UTF-16.
    pub(super) fn new(password: &[u8], user: &str, domain: &str) -> Self {
        let hash: Zeroizing<[u8; 16]> = Zeroizing::new(Md4::digest(password).into());
        let name = utf16(&format!("{}{domain}", user.to_uppercase()));
        Self {
            response: SecretBytes::copied(&hmac_md5(&*hash, &[&name])),
        }
    }
}

/// Returns the response (`NTLMv2_RESPONSE`).
pub(super) fn response(
    keys: &Keys,
    server: [u8; 8],
    client: [u8; 8],
    filetime: u64,
    info: &[u8],
) -> Proof {
    let mut temp = Vec::with_capacity(32 + info.len());
    temp.extend_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0]);
    temp.extend_from_slice(&filetime.to_le_bytes());
    temp.extend_from_slice(&client);
    temp.extend_from_slice(&[0; 4]);
    temp.extend_from_slice(info);
    temp.extend_from_slice(&[0; 4]);
    let proof = hmac_md5(&keys.response, &[&server, &temp]);
    let session_key = SecretBytes::copied(&hmac_md5(&keys.response, &[&proof]));
    Proof {
        response: [&proof[..], &temp].concat(),
        session_key,
    }
}

/// Returns the response for old servers (`LMv2_RESPONSE`).
pub(super) fn lm_response(keys: &Keys, server: [u8; 8], client: [u8; 8]) -> Vec<u8> {
    let proof = hmac_md5(&keys.response, &[&server, &client]);
    [&proof[..], &client].concat()
}

pub(super) fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Hmac::<Md5>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;

    /// [MS-NLMP], 4.2.1 and 4.2.4: User, Domain, Password.
    #[test]
    fn proofs_are_those_of_the_specification() {
        let keys = Keys::new(&utf16("Password"), "User", "Domain");
        assert_eq!(&keys.response[..], hex("0c868a403bfd7a93a3001ef22ef02e3f"));
        let server = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
        let client = [0xaa; 8];
        let lm = lm_response(&keys, server, client);
        assert_eq!(lm, hex("86c35097ac9cec102554764a57cccc19 aaaaaaaaaaaaaaaa"));
        let mut info = Vec::new();
        super::super::push_attribute(&mut info, 2, &utf16("Domain"));
        super::super::push_attribute(&mut info, 1, &utf16("Server"));
        super::super::push_attribute(&mut info, 0, &[]);
        let proof = response(&keys, server, client, 0, &info);
        assert_eq!(
            proof.response[..16],
            hex("68cd0ab851e51c96aabc927bebef6a1c")
        );
        assert_eq!(
            &proof.session_key[..],
            hex("8de40ccadbc14a82f15cb0ad0de95ca3")
        );
    }
}
