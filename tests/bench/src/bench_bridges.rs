//! Many bridges in one process, for `growth`: each with a config, an identity, a data
//! directory and a session of its own, as the bridge's library makes them. It reads a file with a
//! line for each (client id, client secret, config file), pairs and connects them, prints that,
//! and runs until it is killed.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use integration_bridge::{ApiKey, Bridge, Config, Secret, pair};

const CONNECTED: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("usage: bench-bridges FILE")?;
    let mut running = Vec::new();
    for line in std::fs::read_to_string(file)?.lines() {
        let mut fields = line.split('\t');
        let (Some(id), Some(secret), Some(config)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err(format!("not three fields: {line}").into());
        };
        let key = ApiKey {
            client_id: id.to_owned(),
            client_secret: Secret::new(secret),
        };
        let config = Config::load(Path::new(config))?;
        pair(&config, &key).await?;
        running.push(Bridge::start(config)?);
    }
    for bridge in &running {
        if !bridge.wait_connected(CONNECTED).await {
            return Err("a bridge did not connect".into());
        }
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "all connected")?;
    stdout.flush()?;
    std::future::pending().await
}
