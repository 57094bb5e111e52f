//! Security identifiers (SIDs) as text: which accounts may read a secret, and the descriptors that say so.
//!
//! A descriptor is in the security descriptor definition language (SDDL). In it, `SY` is the system, `BA` are the
//! administrators.

/// The account of the service, `NT SERVICE\IntegrationBridge`. Windows derives it from the service's name: the SHA-1 of the
/// name in capitals, as UTF-16. Its list entries can therefore be made before the service exists.
pub(crate) const SERVICE: &str = "S-1-5-80-3194487496-1709499389-4189408156-3052694930-114291806";

const SYSTEM: &str = "S-1-5-18";
const ADMINISTRATORS: &str = "S-1-5-32-544";

/// Accounts that may read every secret of this program.
const TRUSTED: [&str; 6] = [
    SYSTEM,
    ADMINISTRATORS,
    SERVICE,
    // The owner of an object, in two forms. The owner may change the list in any case.
    "S-1-3-0",
    "S-1-3-4",
    // TrustedInstaller, which owns the files of the system.
    "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464",
];

/// Groups that an ordinary user or service belongs to.
const BROAD: [&str; 20] = [
    // Everyone, local and console users.
    "S-1-1-0",
    "S-1-2-0",
    "S-1-2-1",
    // Network, batch, interactive, service, anonymous.
    "S-1-5-2",
    "S-1-5-3",
    "S-1-5-4",
    "S-1-5-6",
    "S-1-5-7",
    // Authenticated users, remote interactive, this organization, local accounts.
    "S-1-5-11",
    "S-1-5-14",
    "S-1-5-15",
    "S-1-5-113",
    // Users, guests, power users, pre-2000 access, remote desktop users.
    "S-1-5-32-545",
    "S-1-5-32-546",
    "S-1-5-32-547",
    "S-1-5-32-554",
    "S-1-5-32-555",
    // All services, all packaged apps.
    "S-1-5-80-0",
    "S-1-15-2-1",
    "S-1-15-2-2",
];

/// Domain users, guests and computers, as the ends of their SIDs.
const BROAD_OF_DOMAIN: [&str; 3] = ["-513", "-514", "-515"];

/// What access of an account means for a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may have access.
    Trusted,
    /// One account or a small group: an administrator may have given it access.
    Single,
    /// A group of many accounts.
    Broad,
}

/// Returns what access of this account means. `own` is the account of the process.
pub(crate) fn standing(sid: &str, own: &str) -> Standing {
    if sid == own || TRUSTED.contains(&sid) {
        return Standing::Trusted;
    }
    let is_of_domain = sid.starts_with("S-1-5-21-");
    let is_broad = BROAD.contains(&sid)
        || is_of_domain && BROAD_OF_DOMAIN.iter().any(|end| sid.ends_with(end));
    match is_broad {
        true => Standing::Broad,
        false => Standing::Single,
    }
}

/// Returns the descriptor of a private file or directory. It inherits nothing, so a list of the directory above has no
/// effect. `own` is an account in addition to those that always have access.
///
/// The service may read, write and remove, but change no list: `0x1301bf` is "modify".
pub(crate) fn private(own: Option<&str>, is_directory: bool) -> String {
    let flags = if is_directory { "OICI" } else { "" };
    let mut text = format!("D:P(A;{flags};FA;;;SY)(A;{flags};FA;;;BA)");
    text.push_str(&format!("(A;{flags};0x1301bf;;;{SERVICE})"));
    if let Some(own) = additional(own) {
        text.push_str(&format!("(A;{flags};FA;;;{own})"));
    }
    text
}

/// Returns the descriptor of the directory with program data: administrators write, the service reads.
pub(crate) fn of_config() -> String {
    format!("D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FRFX;;;{SERVICE})")
}

/// Returns the descriptor of the control pipe. Network logons are denied, which a flag of the pipe does as well.
///
/// It names the owner, by whom a client knows the pipe: by default that would be any group that the system chooses. An
/// administrator's pipe belongs to all administrators.
pub(crate) fn of_pipe(own: &str, is_administrator: bool) -> String {
    let owner = match is_administrator {
        true => "BA",
        false => own,
    };
    let own = match additional(Some(own)) {
        Some(own) => format!("(A;;GA;;;{own})"),
        None => String::new(),
    };
    format!("O:{owner}D:P(D;;GA;;;NU)(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;{SERVICE}){own}")
}

fn additional(own: Option<&str>) -> Option<&str> {
    own.filter(|own| !TRUSTED.contains(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_of_the_service_follows_from_its_name() {
        let name: Vec<u8> = "INTEGRATIONBRIDGE"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &name);
        let parts = hash.as_ref().chunks_exact(4).map(|part| {
            let part: [u8; 4] = part.try_into().unwrap();
            format!("-{}", u32::from_le_bytes(part))
        });
        assert_eq!(SERVICE, format!("S-1-5-80{}", parts.collect::<String>()));
    }

    #[test]
    fn groups_of_many_accounts_are_broad() {
        let own = "S-1-5-21-1-2-3-1001";
        for sid in [own, SYSTEM, ADMINISTRATORS, SERVICE] {
            assert_eq!(standing(sid, own), Standing::Trusted, "{sid}");
        }
        for sid in ["S-1-1-0", "S-1-5-11", "S-1-5-32-545", "S-1-5-21-1-2-3-513"] {
            assert_eq!(standing(sid, own), Standing::Broad, "{sid}");
        }
        for sid in ["S-1-5-21-1-2-3-1002", "S-1-5-32-551", "S-1-5-80-1-2-3-4-5"] {
            assert_eq!(standing(sid, own), Standing::Single, "{sid}");
        }
    }

    #[test]
    fn private_descriptor_inherits_nothing() {
        let file = private(None, false);
        assert!(file.starts_with("D:P(A;;FA;;;SY)(A;;FA;;;BA)"), "{file}");
        let own = "S-1-5-21-1-2-3-1001";
        let directory = private(Some(own), true);
        assert!(directory.ends_with(&format!("(A;OICI;FA;;;{own})")));
        // The service's own account is in the list once.
        assert_eq!(private(Some(SERVICE), false), file);
        assert!(of_pipe(own, false).starts_with(&format!("O:{own}D:P(D;;GA;;;NU)")));
        assert!(of_pipe(own, true).starts_with("O:BAD:P("));
        assert!(!of_config().contains("S-1-1-0"));
    }
}
