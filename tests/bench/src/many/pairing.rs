//! Pairs thousands of bridges: a key pair and a `POST /v1/pair` for each.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::opening::PairingTranscript;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use support::{ApiKey, Ask, Client, TestEnv};
use tokio::task::JoinSet;
use transport::handshake::Identity;

/// Pairings under way at once.
const AT_ONCE: u32 = 4;

/// Who the bridges are: a line for each, that a process of the swarm can read.
pub(crate) struct Roster {
    lines: Vec<String>,
}

struct Pairer {
    relay: Client,
    keys: Arc<[ApiKey]>,
}

impl Roster {
    /// Pairs so many. The first tenant is the one that also has the bridges that serve.
    pub(crate) async fn pair(
        site: &TestEnv,
        bridges: u32,
        tenants: u32,
    ) -> Result<Self, Box<dyn Error>> {
        let mut keys = vec![site.bridge_key.clone()];
        for n in 1..tenants {
            let tenant = format!("tenant-{n}");
            site.relay.create_tenant(&tenant).await;
            keys.push(site.relay.create_key(&tenant, "bridge").await);
        }
        let keys: Arc<[ApiKey]> = keys.into();
        let mut tasks = JoinSet::new();
        for first in 0..AT_ONCE {
            let mut pairer = Pairer {
                relay: site.relay.internal().client().await.map_err(text)?,
                keys: Arc::clone(&keys),
            };
            tasks.spawn(async move {
                let mut lines = Vec::new();
                for number in (first..bridges).step_by(AT_ONCE as usize) {
                    lines.push(pairer.pair(number).await?);
                }
                Ok::<_, String>(lines)
            });
        }
        let mut lines = Vec::new();
        while let Some(done) = tasks.join_next().await {
            lines.extend(done??);
        }
        Ok(Self { lines })
    }

    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        fs::write(file, self.lines.join("\n"))
    }

    /// Reads the identities of a part of them.
    pub(crate) fn read(
        file: &Path,
        first: usize,
        count: usize,
    ) -> Result<Vec<Identity>, Box<dyn Error>> {
        let text = fs::read_to_string(file)?;
        let part = text.lines().skip(first).take(count);
        part.map(identity).collect()
    }
}

impl Pairer {
    async fn pair(&mut self, number: u32) -> Result<String, String> {
        let seed: [u8; 32] = transport::handshake::random().map_err(text)?;
        let instance: [u8; 16] = transport::handshake::random().map_err(text)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(text)?;
        let key = &self.keys[number as usize % self.keys.len()];
        let name = format!("bridge-{number}");
        let transcript = PairingTranscript {
            client_id: &key.client_id,
            name: &name,
            public_key: pair.public_key().as_ref(),
            instance: &instance,
        };
        let document = json!({
            "name": name,
            "public_key": STANDARD.encode(pair.public_key().as_ref()),
            "instance": STANDARD.encode(instance),
            "host": format!("host-{number}.corp.example"),
            "software": "0.1.0",
            "proof": STANDARD.encode(transcript.sign(&pair)),
        });
        let ask = Ask::post("/v1/pair").key(key).json(&document);
        let answer: Value = self.relay.send(ask).await.expect_status(200).json();
        let field = |name: &str| {
            let value = answer[name].as_str();
            value.ok_or_else(|| format!("the pairing has no {name}: {answer}"))
        };
        let (tenant, bridge) = (field("tenant_id")?, field("bridge_id")?);
        let (seed, instance) = (STANDARD.encode(seed), STANDARD.encode(instance));
        Ok(format!("{tenant} {bridge} {instance} {seed}"))
    }
}

fn identity(line: &str) -> Result<Identity, Box<dyn Error>> {
    let mut fields = line.split(' ');
    let mut field = || fields.next().ok_or("a line of the roster is cut off");
    let (tenant, bridge) = (field()?.to_owned(), field()?.to_owned());
    let instance = STANDARD.decode(field()?)?;
    let seed = STANDARD.decode(field()?)?;
    Ok(Identity {
        tenant,
        bridge,
        instance: instance.try_into().map_err(|_| "an instance of 16 bytes")?,
        key: Arc::new(Ed25519KeyPair::from_seed_unchecked(&seed).map_err(text)?),
        software: "0.1.0".to_owned(),
        host: "host.corp.example".to_owned(),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` wants")]
fn text(error: impl ToString) -> String {
    error.to_string()
}
