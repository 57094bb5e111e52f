//! What DER is: told by its outer structure, which the ASN.1 library reads.

use rustls_pki_types::PrivateKeyDer;
use x509_parser::asn1_rs::{Any, FromBer as _, FromDer as _, Oid, oid};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::revocation_list::CertificateRevocationList;

/// An encrypted key, in any of its forms.
pub(super) const ENCRYPTED: &str = "holds an encrypted private key, and the program has no passphrase for it: \
                                    decrypt it with `openssl pkey -in FILE -out NEW`, and protect the new \
                                    file (mode 0600)";

const PKCS7: &str = "holds PKCS#7 from which no certificate can be read: convert it with `openssl pkcs7 -in FILE \
                     -print_certs -out NEW` (with `-inform DER` if it is binary)";

const PKCS12: &str = "is PKCS#12 (.p12, .pfx): convert it with `openssl pkcs12 -in FILE -nokeys -out CERT.pem` and \
                      `openssl pkcs12 -in FILE -nocerts -nodes -out KEY.pem`";

const JKS: &str = "is a Java key store: export a certificate with `keytool -exportcert -rfc -keystore FILE -alias \
                   NAME`; for a key, make PKCS#12 of it with `keytool -importkeystore -srckeystore FILE -destkeystore \
                   NEW.p12 -deststoretype PKCS12`, and convert that";

const REQUEST: &str = "holds a certificate request (CSR) and no certificate: name the certificate that the CA issued \
                       for it";

const REQUEST_FOR_KEY: &str = "holds a certificate request (CSR) and no private key: name the key file with which the \
                               request was made";

const REQUEST_FOR_PUBLIC_KEY: &str = "holds a certificate request (CSR) and no public key: write the key into \
                                      a file of its own with `openssl req -in FILE -noout -pubkey`";

const CRL: &str = "holds a revocation list (CRL) and no certificate";

const CRL_FOR_KEY: &str = "holds a revocation list (CRL) and no key";

const PKCS7_FOR_KEY: &str = "holds PKCS#7, which has no key: name the key's file here";

const SSH: &str = "holds a key in OpenSSH's own form: convert a copy of it with `ssh-keygen -p -m PEM -f FILE`, or make \
                   a new key with `openssl genpkey`";

const DSA: &str = "holds a DSA key, which TLS no longer supports: use an EC key (P-256) or an RSA key of 2048 bits";

const UNTRUSTED: &str = "has OpenSSL trust settings that exclude servers (TRUSTED CERTIFICATE): write it without them \
                         with `openssl x509 -in FILE -clrtrust -out NEW`";

const OID_DATA: Oid<'static> = oid!(1.2.840.113549.1.7.1);
const OID_SIGNED_DATA: Oid<'static> = oid!(1.2.840.113549.1.7.2);
const OID_RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);
const OID_RSA_PSS: Oid<'static> = oid!(1.2.840.113549.1.1.10);
const OID_DSA: Oid<'static> = oid!(1.2.840.10040.4.1);
const OID_EC: Oid<'static> = oid!(1.2.840.10045.2.1);
const OID_P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const OID_P384: Oid<'static> = oid!(1.3.132.0.34);
const OID_ED25519: Oid<'static> = oid!(1.3.101.112);
const OID_ED448: Oid<'static> = oid!(1.3.101.113);
const OID_SERVER_AUTH: Oid<'static> = oid!(1.3.6.1.5.5.7.3.1);
const OID_ANY_USAGE: Oid<'static> = oid!(2.5.29.37.0);

/// The shortest RSA key, in bits, that is accepted.
const RSA_BITS_MIN: usize = 2048;

/// Something that a file holds.
pub(super) enum Form {
    Certificate(Vec<u8>),
    /// A certificate that cannot be used, with the reason.
    Broken(String),
    /// A private key: PKCS #8, PKCS #1 or SEC 1.
    Key(Vec<u8>),
    /// SubjectPublicKeyInfo.
    PublicKey(Vec<u8>),
    /// Something that cannot be taken: the message, and what it is near to.
    Named(&'static str, &'static str),
    /// Something else that cannot be decoded, with the reason.
    BrokenOther(String),
    /// Parameters, of no use here.
    Ignored,
}

/// Returns the message of a [`Form::Named`] where a private key is wanted: the form's own is for a certificate.
pub(super) fn instead_of_key(named: &'static str) -> &'static str {
    match named {
        REQUEST => REQUEST_FOR_KEY,
        CRL => CRL_FOR_KEY,
        PKCS7 => PKCS7_FOR_KEY,
        other => other,
    }
}

/// Returns the same where a public key is wanted.
pub(super) fn instead_of_public_key(named: &'static str) -> &'static str {
    match named {
        REQUEST => REQUEST_FOR_PUBLIC_KEY,
        CRL => CRL_FOR_KEY,
        PKCS7 => PKCS7_FOR_KEY,
        other => other,
    }
}

/// Returns the form where a label alone decides it.
pub(super) fn of_label(label: &str) -> Option<Form> {
    Some(match label {
        "ENCRYPTED PRIVATE KEY" => Form::Named(ENCRYPTED, "key"),
        "OPENSSH PRIVATE KEY" => Form::Named(SSH, "key"),
        "DSA PRIVATE KEY" => Form::Named(DSA, "key"),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Form::Named(REQUEST, "certificate"),
        "X509 CRL" => Form::Named(CRL, "certificate"),
        "EC PARAMETERS" | "DH PARAMETERS" | "X9.42 DH PARAMETERS" | "DSA PARAMETERS" => {
            Form::Ignored
        }
        _ => return None,
    })
}

/// Returns what the bytes of a block with this label are.
pub(super) fn of_block(label: &str, bytes: Vec<u8>) -> Vec<Form> {
    let one = match label {
        "CERTIFICATE" if is_pkcs7(&bytes) => return pkcs7(&bytes),
        "PKCS7" | "CMS" | "PKCS #7 SIGNED DATA" => return pkcs7(&bytes),
        "TRUSTED CERTIFICATE" => trusted(&bytes),
        "CERTIFICATE" | "X509 CERTIFICATE" => certificate(bytes),
        "PRIVATE KEY" | "EC PRIVATE KEY" | "RSA PRIVATE KEY" => {
            let is_whole = whole(&bytes).is_some();
            match is_whole {
                true => Form::Key(bytes),
                false => Form::BrokenOther("is damaged: it is cut short".to_owned()),
            }
        }
        "PUBLIC KEY" => Form::PublicKey(bytes),
        "RSA PUBLIC KEY" => Form::Named(
            "holds an RSA public key in its old form: convert it with `openssl rsa -RSAPublicKey_in -in FILE \
             -pubout`",
            "public key",
        ),
        _ => Form::Ignored,
    };
    vec![one]
}

/// Returns what a file of DER holds; certificates may follow each other.
pub(super) fn forms(bytes: &[u8]) -> Result<Vec<Form>, String> {
    if bytes.starts_with(b"\xfe\xed\xfe\xed") {
        return Err(JKS.to_owned());
    }
    let mut forms = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() && forms.len() <= super::CERTIFICATES_MAX {
        let Ok((after, one)) = Any::from_der(rest) else {
            // BER, as some programs write PKCS#7 and PKCS#12.
            match Any::from_ber(rest) {
                Ok((_, any)) if rest.get(1) == Some(&0x80) => forms.push(of_ber(any.data)),
                _ if forms.is_empty() => {
                    return Err("is neither PEM nor complete DER: it may be cut short".to_owned());
                }
                // Bytes after the last one, such as a line break that a transfer added.
                _ => {}
            }
            break;
        };
        let own = &rest[..rest.len() - after.len()];
        match is_pkcs7(own) {
            true => forms.extend(pkcs7(own)),
            false => forms.push(unlabelled(own, &one)),
        }
        rest = after;
    }
    if forms.is_empty() {
        return Err("is neither PEM nor DER".to_owned());
    }
    Ok(forms)
}

fn of_ber(content: &[u8]) -> Form {
    let is_data = Any::from_ber(content).is_ok_and(|(_, first)| first.header.tag().0 == 2);
    match is_data {
        true => Form::Named(PKCS12, "certificate and key"),
        false => Form::Named(PKCS7, "certificate"),
    }
}

/// Tells what a structure is by its first elements.
fn unlabelled(bytes: &[u8], any: &Any<'_>) -> Form {
    const INTEGER: u32 = 2;
    const BIT_STRING: u32 = 3;
    const OCTET_STRING: u32 = 4;
    const SEQUENCE: u32 = 16;
    let elements = elements(any.data);
    let tags: Vec<u32> = elements.iter().map(|one| one.header.tag().0).collect();
    let first = |index: usize| {
        elements
            .get(index)
            .and_then(|one| children(one).into_iter().next())
    };
    match tags.as_slice() {
        [INTEGER, SEQUENCE, ..]
            if elements[0].data == [3]
                && first(1).and_then(|one| oid_of(&one)) == Some(OID_DATA) =>
        {
            Form::Named(PKCS12, "certificate and key")
        }
        [INTEGER, SEQUENCE, OCTET_STRING, ..]
        | [INTEGER, OCTET_STRING, ..]
        | [
            INTEGER,
            INTEGER,
            INTEGER,
            INTEGER,
            INTEGER,
            INTEGER,
            INTEGER,
            INTEGER,
            ..,
        ] => Form::Key(bytes.to_vec()),
        [SEQUENCE, BIT_STRING] => Form::PublicKey(bytes.to_vec()),
        [SEQUENCE, OCTET_STRING] => Form::Named(ENCRYPTED, "key"),
        _ if x509_parser::parse_x509_certificate(bytes).is_ok() => {
            Form::Certificate(bytes.to_vec())
        }
        _ if X509CertificationRequest::from_der(bytes).is_ok() => {
            Form::Named(REQUEST, "certificate")
        }
        _ if CertificateRevocationList::from_der(bytes).is_ok() => Form::Named(CRL, "certificate"),
        [SEQUENCE, SEQUENCE, BIT_STRING] => {
            Form::Broken("is not a valid X.509 certificate".to_owned())
        }
        _ => Form::Named("is DER, but no certificate and no key", "certificate"),
    }
}

fn certificate(bytes: Vec<u8>) -> Form {
    let Some(any) = whole(&bytes) else {
        let why = match Any::from_der(&bytes) {
            Ok(_) => "is damaged: bytes follow its end",
            Err(_) => "is damaged: it is cut short",
        };
        return Form::Broken(why.to_owned());
    };
    // The parser of TLS has the last word: it accepts some certificates that this one does not.
    match elements(any.data).len() {
        3 => Form::Certificate(bytes),
        _ => Form::Broken("is not an X.509 certificate".to_owned()),
    }
}

/// OpenSSL's `TRUSTED CERTIFICATE`: a certificate, and then the purposes for which it is trusted or rejected.
fn trusted(bytes: &[u8]) -> Form {
    let Ok((rest, _)) = Any::from_der(bytes) else {
        return Form::Broken("is damaged: it is cut short".to_owned());
    };
    let own = &bytes[..bytes.len() - rest.len()];
    let settings = whole(rest)
        .map(|any| elements(any.data))
        .unwrap_or_default();
    for setting in settings {
        let names_servers = children(&setting)
            .iter()
            .filter_map(oid_of)
            .any(|usage| usage == OID_SERVER_AUTH || usage == OID_ANY_USAGE);
        let excludes = match (setting.header.class(), setting.header.tag().0) {
            // The list of trusted purposes must have that of servers, the list of rejected ones must not.
            (x509_parser::asn1_rs::Class::Universal, 16) => !names_servers,
            (x509_parser::asn1_rs::Class::ContextSpecific, 0) => names_servers,
            _ => false,
        };
        if excludes {
            return Form::Broken(UNTRUSTED.to_owned());
        }
    }
    certificate(own.to_vec())
}

/// Returns whether it is PKCS#7; some programs write it under the label of certificates.
fn is_pkcs7(bytes: &[u8]) -> bool {
    let Some(any) = whole(bytes) else {
        return false;
    };
    elements(any.data).first().and_then(oid_of) == Some(OID_SIGNED_DATA)
}

/// The certificates of PKCS#7 `SignedData` (RFC 2315, 9.1).
fn pkcs7(bytes: &[u8]) -> Vec<Form> {
    let found = (|| {
        let outer = elements(Any::from_der(bytes).ok()?.1.data);
        let signed = children(outer.get(1)?).into_iter().next()?;
        // version, digestAlgorithms, contentInfo, certificates [0]
        let parts = children(&signed);
        let is_certificates = |one: &&Any<'_>| {
            one.header.class() == x509_parser::asn1_rs::Class::ContextSpecific
                && one.header.tag().0 == 0
        };
        let mut rest = parts.iter().find(is_certificates)?.data;
        let mut certificates = Vec::new();
        while !rest.is_empty() && certificates.len() <= super::CERTIFICATES_MAX {
            let (after, _) = Any::from_der(rest).ok()?;
            certificates.push(certificate(rest[..rest.len() - after.len()].to_vec()));
            rest = after;
        }
        (!certificates.is_empty()).then_some(certificates)
    })();
    found.unwrap_or_else(|| vec![Form::Named(PKCS7, "certificate")])
}

/// Returns why a private key is not supported, if it is not.
pub(super) fn key_complaint(der: &[u8]) -> Option<String> {
    let elements = elements(whole(der)?.data);
    match PrivateKeyDer::try_from(der).ok()? {
        PrivateKeyDer::Pkcs1(_) => rsa_complaint(elements.get(1)?.data),
        PrivateKeyDer::Sec1(_) => {
            let parameters = elements.iter().find(|one| one.header.tag().0 == 0)?;
            curve_complaint(&children(parameters).into_iter().next()?)
        }
        PrivateKeyDer::Pkcs8(_) => {
            let algorithm = children(elements.get(1)?);
            let complaint = algorithm_complaint(&algorithm);
            if complaint.is_some() || oid_of(algorithm.first()?) != Some(OID_RSA) {
                return complaint;
            }
            let inner = Any::from_der(elements.get(2)?.data).ok()?.1;
            rsa_complaint(children(&inner).get(1)?.data)
        }
        _ => None,
    }
}

/// Returns why a public key (SubjectPublicKeyInfo) is not supported, if it is not.
pub(super) fn public_key_complaint(spki: &[u8]) -> Option<String> {
    let elements = elements(whole(spki)?.data);
    let algorithm = children(elements.first()?);
    let complaint = algorithm_complaint(&algorithm);
    if complaint.is_some() || oid_of(algorithm.first()?) != Some(OID_RSA) {
        return complaint;
    }
    // A BIT STRING begins with the number of its unused bits.
    let inner = Any::from_der(elements.get(1)?.data.get(1..)?).ok()?.1;
    rsa_complaint(children(&inner).first()?.data)
}

fn algorithm_complaint(algorithm: &[Any<'_>]) -> Option<String> {
    let kind = oid_of(algorithm.first()?)?;
    if kind == OID_EC {
        return curve_complaint(algorithm.get(1)?);
    }
    if kind == OID_DSA {
        return Some(DSA.to_owned());
    }
    if kind == OID_RSA_PSS {
        return Some(
            "holds a key that is for RSA-PSS alone, which is not supported: use an EC key (P-256) or an RSA \
             key"
                .to_owned(),
        );
    }
    if kind == OID_ED448 {
        return Some("holds an Ed448 key, which is not supported: use Ed25519 or P-256".to_owned());
    }
    if kind == OID_RSA || kind == OID_ED25519 {
        return None;
    }
    Some(format!(
        "holds a key of an unsupported kind ({kind}): use an EC key (P-256) or an RSA key of 2048 bits"
    ))
}

fn curve_complaint(parameters: &Any<'_>) -> Option<String> {
    let remedy = "make a key with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`";
    match oid_of(parameters) {
        Some(curve) if curve == OID_P256 || curve == OID_P384 => None,
        Some(curve) => Some(format!(
            "holds an EC key of an unsupported curve ({curve}); P-256 and P-384 are supported: {remedy}"
        )),
        None => Some(format!(
            "holds an EC key with explicit curve parameters, which are not supported; a named curve is: \
             {remedy}"
        )),
    }
}

fn rsa_complaint(modulus: &[u8]) -> Option<String> {
    let leading = modulus.iter().take_while(|byte| **byte == 0).count();
    let significant = &modulus[leading..];
    let zeros = significant.first().map_or(0, |byte| byte.leading_zeros());
    let bits = (significant.len() * 8).saturating_sub(zeros as usize);
    (bits < RSA_BITS_MIN).then(|| {
        format!("holds an RSA key of {bits} bits; {RSA_BITS_MIN} bits or more are supported")
    })
}

/// Returns the structure that the bytes are as a whole.
fn whole(bytes: &[u8]) -> Option<Any<'_>> {
    match Any::from_der(bytes) {
        Ok(([], any)) => Some(any),
        Ok(_) | Err(_) => None,
    }
}

/// Returns the elements of a constructed value, up to the first that cannot be read.
fn elements(mut content: &[u8]) -> Vec<Any<'_>> {
    // More than any of these structures has.
    const ELEMENTS_MAX: usize = 64;
    let mut all = Vec::new();
    while all.len() < ELEMENTS_MAX
        && !content.is_empty()
        && let Ok((rest, any)) = Any::from_der(content)
    {
        all.push(any);
        content = rest;
    }
    all
}

fn children<'a>(any: &Any<'a>) -> Vec<Any<'a>> {
    elements(any.data)
}

fn oid_of(any: &Any<'_>) -> Option<Oid<'static>> {
    (any.header.tag().0 == 6).then(|| Oid::new(any.data.to_vec().into()))
}
