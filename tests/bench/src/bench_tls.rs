//! The yardstick of `distance`: two processes with one TLS connection between them for each
//! connection that they carry, and nothing else. What it reaches, a tunnel over the same line can.
//!
//! ```text
//! load ──> bench-tls dial ADDR ca.pem ══ TLS ══> bench-tls accept ADDR cert key ──> ADDR
//! ```
//!
//! Each prints where it listens and runs until it is killed.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// One read: four TLS records.
const BUFFER_BYTES: usize = 64 * 1024;

/// Which end of the TLS connection this process is.
#[derive(Clone)]
enum End {
    Dial(TlsConnector),
    Accept(TlsAcceptor),
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (end, to) = match args.as_slice() {
        ["dial", to, ca_file] => (dialer(ca_file)?, to),
        ["accept", to, cert_file, key_file] => (acceptor(cert_file, key_file)?, to),
        _ => return Err("usage: bench-tls dial ADDR CA | accept ADDR CERT KEY".into()),
    };
    let to: SocketAddr = to.parse()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", listener.local_addr()?)?;
    stdout.flush()?;
    loop {
        let (socket, _) = listener.accept().await?;
        // Either side may leave when it likes.
        tokio::spawn(carry(end.clone(), socket, to));
    }
}

async fn carry(end: End, from: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let to = TcpStream::connect(to).await?;
    from.set_nodelay(true)?;
    to.set_nodelay(true)?;
    match end {
        End::Dial(tls) => {
            let name = ServerName::try_from("localhost").expect("a name");
            copy(from, tls.connect(name, to).await?).await
        }
        End::Accept(tls) => copy(tls.accept(from).await?, to).await,
    }
}

async fn copy(
    mut near: impl AsyncRead + AsyncWrite + Unpin,
    mut far: impl AsyncRead + AsyncWrite + Unpin,
) -> std::io::Result<()> {
    copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER_BYTES, BUFFER_BYTES).await?;
    Ok(())
}

fn dialer(ca_file: &str) -> Result<End, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file)?)?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(End::Dial(Arc::new(config).into()))
}

fn acceptor(cert_file: &str, key_file: &str) -> Result<End, Box<dyn Error>> {
    let cert = CertificateDer::from_pem_file(cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file)?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)?;
    Ok(End::Accept(Arc::new(config).into()))
}
