//! The system's proxy settings, as text. Their meaning is in the crate `transport`.
//!
//! ```text
//! 1. WinHTTP, which services use             netsh winhttp set proxy ...
//! 2. the machine's Internet settings         a policy sets them
//! 3. this user's Internet settings           the control panel sets them
//! ```

use crate::registry::{Root, number, text};
use crate::text::of_system;
use windows_sys::Win32::Foundation::GlobalFree;
use windows_sys::Win32::Networking::WinHttp::{
    WINHTTP_ACCESS_TYPE_NAMED_PROXY, WINHTTP_PROXY_INFO, WinHttpGetDefaultProxyConfiguration,
};

const SETTINGS: &str = r"Software\Microsoft\Windows\CurrentVersion\Internet Settings";

/// What the system says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemProxy {
    /// Every connection is direct.
    None,
    /// A proxy.
    Named {
        /// `host:port`, or `http=host:port;https=host:port`.
        servers: String,
        /// Hosts that are reached directly, separated by semicolons.
        bypass: String,
        /// Where the setting is, for messages.
        origin: &'static str,
    },
    /// A script decides, which this program does not run.
    Script {
        /// Where the setting is, for messages.
        origin: &'static str,
    },
}

/// Reads the settings.
pub fn system() -> SystemProxy {
    if let Some(found) = of_winhttp() {
        return found;
    }
    let both = [
        (Root::Machine, "the machine's Internet settings"),
        (Root::User, "this user's Internet settings"),
    ];
    let found = both
        .into_iter()
        .find_map(|(root, origin)| of_internet_settings(root, origin));
    found.unwrap_or(SystemProxy::None)
}

fn of_winhttp() -> Option<SystemProxy> {
    let mut found = WINHTTP_PROXY_INFO {
        dwAccessType: 0,
        lpszProxy: std::ptr::null_mut(),
        lpszProxyBypass: std::ptr::null_mut(),
    };
    // SAFETY: the call writes the structure.
    if unsafe { WinHttpGetDefaultProxyConfiguration(&mut found) } == 0 {
        return None;
    }
    // SAFETY: the call has allocated texts that end with a zero, or left the pointers null.
    let (servers, bypass) =
        unsafe { (of_system(found.lpszProxy), of_system(found.lpszProxyBypass)) };
    for text in [found.lpszProxy, found.lpszProxyBypass] {
        if !text.is_null() {
            // SAFETY: allocated by the call, which says that the caller frees it, and not used again.
            unsafe { GlobalFree(text.cast()) };
        }
    }
    let is_named = found.dwAccessType == WINHTTP_ACCESS_TYPE_NAMED_PROXY && !servers.is_empty();
    is_named.then_some(SystemProxy::Named {
        servers,
        bypass,
        origin: "the settings of WinHTTP",
    })
}

fn of_internet_settings(root: Root, origin: &'static str) -> Option<SystemProxy> {
    if number(root, SETTINGS, "ProxyEnable") == Some(1)
        && let Some(servers) = text(root, SETTINGS, "ProxyServer").filter(|text| !text.is_empty())
    {
        return Some(SystemProxy::Named {
            servers,
            bypass: text(root, SETTINGS, "ProxyOverride").unwrap_or_default(),
            origin,
        });
    }
    let script = text(root, SETTINGS, "AutoConfigURL").filter(|text| !text.is_empty());
    script.map(|_| SystemProxy::Script { origin })
}
