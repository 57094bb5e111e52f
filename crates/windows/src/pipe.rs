//! The named pipe of the control interface: only administrators, the service and its own user may open it.
//!
//! The first instance is made with a flag that fails if another program has a pipe of this name already. A client checks
//! the owner of the pipe: an ordinary user cannot make one that an administrator's command would trust.

use crate::acl::{self, Attributes};
use crate::sid;
use std::io;
use std::os::windows::io::AsRawHandle as _;
use tokio::net::windows::named_pipe::{NamedPipeClient, NamedPipeServer, ServerOptions};

/// Makes an instance of the pipe, in a runtime. `is_first` is for the first one.
///
/// # Errors
/// The system's error, for example that another program has a pipe of this name.
pub fn create(name: &str, is_first: bool) -> io::Result<NamedPipeServer> {
    let descriptor = sid::of_pipe(&acl::own_sid()?, acl::is_administrator());
    let mut attributes = Attributes::parse(&descriptor)?;
    let mut options = ServerOptions::new();
    options.first_pipe_instance(is_first);
    options.reject_remote_clients(true);
    // SAFETY: the attributes are those of the system's structure, and live until after the call.
    unsafe { options.create_with_security_attributes_raw(name, attributes.raw().cast()) }
}

/// Returns whether the system, an administrator, the service or this user made the pipe.
///
/// # Errors
/// The system's error.
pub fn is_trusted(client: &NamedPipeClient) -> io::Result<bool> {
    acl::has_pipe_trusted_owner(client.as_raw_handle())
}
