//! The command line of the quickstart.

use clap::Parser;
use policy::{Endpoint, HostPattern, Methods};
use std::path::PathBuf;

/// Starts a relay, a bridge and a sample target in one process, pairs them, sends one call through
/// the tunnel and prints the outcome. Runs until Ctrl-C, so that you can send your own.
#[derive(Debug, Parser)]
#[command(name = "quickstart", version, about, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Send the call, print the outcome, and exit. Exits with 0 if the call was executed.
    #[arg(long)]
    pub(crate) once: bool,

    /// Print one JSON object (URLs, keys, path of the CA, outcome of the call) instead of text.
    #[arg(long)]
    pub(crate) json: bool,

    /// Declare an endpoint on the bridge, in addition to the sample target. May be repeated.
    #[arg(long, value_name = "NAME=URL", value_parser = endpoint)]
    pub(crate) endpoint: Vec<(String, String)>,

    /// Allow calls to a host, in addition to the sample target: a name, `*.corp.example`, an address
    /// or a CIDR, on the ports 80, 443, 8080 and 8443, or on the one given as HOST:PORT. May be
    /// repeated.
    #[arg(long, value_name = "PATTERN", value_parser = allow)]
    pub(crate) allow: Vec<String>,

    /// Port of the relay's HTTPS listener on 127.0.0.1; 0 chooses a free one.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,

    /// Keep database, certificates and the bridge's identity here instead of in a temporary
    /// directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  quickstart                                             watch a call, then try your own
  quickstart --once                                      only the call; exit code 0 if it was executed
  quickstart --endpoint ci=http://127.0.0.1:8080/        reach a server of yours through the tunnel
  quickstart --allow '*.corp.example' --data-dir ./demo  allow calls to hosts of yours, keep the data";

fn endpoint(text: &str) -> Result<(String, String), String> {
    let (name, url) = text
        .split_once('=')
        .ok_or("write NAME=URL, like ci=http://127.0.0.1:8080/")?;
    Endpoint::new(name, url, Methods::Any).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), url.to_owned()))
}

fn allow(text: &str) -> Result<String, String> {
    let host = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && !host.ends_with(':') => {
            host.trim_matches(['[', ']'])
        }
        _ => text,
    };
    HostPattern::parse(host)
        .or_else(|_| HostPattern::parse(text))
        .map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}
