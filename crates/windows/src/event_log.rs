//! Entries in the system's event log, for what an administrator must see although the program's own log is elsewhere.

use crate::registry;
use crate::text::wide;
use std::io;
use std::ptr::{null, null_mut};
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, RegisterEventSourceW,
    ReportEventW,
};

/// The source of the entries.
pub const SOURCE: &str = crate::service::NAME;

/// The number of all entries: the first message of the program below.
const EVENT: u32 = 1;

/// A program of the system whose messages 1 to 1000 are nothing but the text of the entry.
const MESSAGES: &str = r"%SystemRoot%\System32\EventCreate.exe";

/// Units of UTF-16 of an entry; the system's limit is 31,839.
const TEXT_MAX_UNITS: usize = 16 * 1024;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// A state that was expected.
    Info,
    /// The administrator must act.
    Error,
}

fn key() -> String {
    format!(r"SYSTEM\CurrentControlSet\Services\EventLog\Application\{SOURCE}")
}

/// Registers the source, so that the event viewer shows the text alone. Needs the rights of an administrator.
///
/// # Errors
/// The system's error.
pub fn register() -> io::Result<()> {
    let types = u32::from(EVENTLOG_ERROR_TYPE | EVENTLOG_INFORMATION_TYPE);
    registry::write(
        &key(),
        ("EventMessageFile", MESSAGES),
        &[("TypesSupported", types)],
    )
}

/// Removes the source.
///
/// # Errors
/// The system's error.
pub fn unregister() -> io::Result<()> {
    registry::remove(&key())
}

/// Adds an entry. Nothing happens if the system does not take it: the caller has no better place.
pub fn report(severity: Severity, text: &str) {
    let source = wide(SOURCE);
    // SAFETY: the name ends with a zero; a null pointer stands for this machine.
    let log = unsafe { RegisterEventSourceW(null(), source.as_ptr()) };
    if log.is_null() {
        return;
    }
    let mut text = wide(text);
    text.truncate(TEXT_MAX_UNITS);
    text.push(0);
    let kind = match severity {
        Severity::Info => EVENTLOG_INFORMATION_TYPE,
        Severity::Error => EVENTLOG_ERROR_TYPE,
    };
    let texts = [text.as_ptr()];
    // SAFETY: the log is open, and there is one text, which ends with a zero.
    unsafe {
        ReportEventW(
            log,
            kind,
            0,
            EVENT,
            null_mut(),
            1,
            0,
            texts.as_ptr(),
            null(),
        )
    };
    // SAFETY: opened above, and not used again.
    unsafe { DeregisterEventSource(log) };
}
