//! Asks the Kerberos servers (KDCs) of a realm, over TCP (RFC 4120, 7.2.2).

use crate::config::KdcAddress;
use proxy_auth::kerberos::REPLY_MAX_BYTES;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use transport::dial::MechanismError;
use transport::failure;

/// The time for one server: connection, request and reply.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Sends a request to the first server that answers.
///
/// # Errors
/// The failure of the last one.
pub(super) async fn ask(servers: &[KdcAddress], request: &[u8]) -> Result<Vec<u8>, MechanismError> {
    let mut last = "there is no Kerberos server".to_owned();
    for server in servers {
        let asked = timeout(TIMEOUT, exchange(server, request)).await;
        match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(reply) => return Ok(reply),
            Err(error) => {
                last = format!(
                    "the Kerberos server {server} was not reached: {} (kerberos.kdc)",
                    failure::reach(&error)
                );
            }
        }
    }
    Err(MechanismError(last))
}

async fn exchange(server: &KdcAddress, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server.parts()).await?;
    let len = u32::try_from(request.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let message = [&len.to_be_bytes()[..], request].concat();
    stream.write_all(&message).await?;
    let len = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if len > REPLY_MAX_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut reply = vec![0; len];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}
