//! The functions of Windows that the bridge needs and that no maintained library offers in safe form.
//!
//! ```text
//! acl       who may read a file; directories for this program alone      files      identity of a file, links
//! pipe      the named pipe of the control interface                      dpapi      secrets bound to this machine
//! service   the service and its control manager (crate windows-service)  event_log  entries for the administrator
//! proxy     the system's proxy settings                                  system     memory, disk, version, account
//! ```
//!
//! With `malloc-trim` this crate has the only unsafe code of the product: calls of system functions, each in a function
//! that is safe to call. They all exist in Windows Server 2008 R2 SP1. The crate is empty on other systems, apart from
//! the texts in `sid`, which tests read there.

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]

#[cfg(any(windows, test))]
mod sid;

#[cfg(windows)]
pub mod acl;
#[cfg(windows)]
pub mod dpapi;
#[cfg(windows)]
pub mod event_log;
#[cfg(windows)]
pub mod files;
#[cfg(windows)]
pub mod pipe;
#[cfg(windows)]
pub mod proxy;
#[cfg(windows)]
mod registry;
#[cfg(windows)]
pub mod service;
#[cfg(windows)]
pub mod system;
#[cfg(windows)]
mod text;
