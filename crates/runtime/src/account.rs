//! The account of the user that runs a command, for audit records.
//!
//! Variables such as `USER` are the user's own and prove nothing. The user id comes from the kernel, and its name from
//! the system's list of accounts. Accounts of a directory service that this list does not have are shown by number.

/// Characters of an account's name.
const NAME_MAX_CHARS: usize = 64;

/// Returns the account of this process's real user: its name, or `uid-N`. For root under sudo the account that called
/// sudo follows, as in `root (sudo by alice)`.
#[cfg(unix)]
pub fn current() -> String {
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let uid = rustix::process::getuid().as_raw();
    // Only root can have been called by sudo. For any other user the variable proves nothing.
    let caller = match uid {
        0 => std::env::var("SUDO_UID").ok(),
        _ => None,
    };
    describe(&accounts, uid, caller.as_deref())
}

/// Returns the account of the user that runs this process, as `DOMAIN\name`.
#[cfg(not(unix))]
pub fn current() -> String {
    #[cfg(windows)]
    let name = bridge_windows::system::account().unwrap_or_default();
    #[cfg(not(windows))]
    let name = std::env::var("USERNAME").unwrap_or_default();
    match clean(&name) {
        name if name.is_empty() => "unknown".to_owned(),
        name => name,
    }
}

#[cfg(any(unix, test))]
fn describe(accounts: &str, uid: u32, caller: Option<&str>) -> String {
    let own = name_of(accounts, uid);
    match caller.and_then(|uid| uid.parse().ok()) {
        Some(caller) if caller != uid => format!("{own} (sudo by {})", name_of(accounts, caller)),
        Some(_) | None => own,
    }
}

/// Returns the name of a user id in the text of `/etc/passwd` (`name:password:uid:...`).
#[cfg(any(unix, test))]
fn name_of(accounts: &str, uid: u32) -> String {
    let mut names = accounts.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let own: u32 = fields.nth(1)?.parse().ok()?;
        (own == uid && !name.is_empty()).then(|| clean(name))
    });
    names.next().unwrap_or_else(|| format!("uid-{uid}"))
}

/// Returns a name without characters that a terminal interprets.
fn clean(name: &str) -> String {
    // Names of Windows have blanks, and letters of every language.
    let is_visible = |c: &char| c.is_ascii_graphic() || c.is_alphanumeric() || *c == ' ';
    name.chars()
        .filter(is_visible)
        .take(NAME_MAX_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nalice:x:1000:1000::/home/alice:/bin/sh\n";

    #[test]
    fn account_is_named_by_its_user_id() {
        assert_eq!(describe(ACCOUNTS, 1000, None), "alice");
        assert_eq!(describe(ACCOUNTS, 7, None), "uid-7");
        assert_eq!(describe(ACCOUNTS, 0, None), "root");
        assert_eq!(describe(ACCOUNTS, 0, Some("1000")), "root (sudo by alice)");
        assert_eq!(describe(ACCOUNTS, 0, Some("0")), "root");
        assert_eq!(describe(ACCOUNTS, 0, Some("x; rm")), "root");
        assert!(!current().is_empty());
    }
}
