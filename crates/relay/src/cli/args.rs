//! What can be written on the command line.

use crate::storage::{Existing, Role};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// The relay of the Integration Bridge: bridges dial to it, callers send to it.
#[derive(Debug, Parser)]
#[command(name = "integration-relay", version, about, after_help = EXAMPLES)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "RELAY_CONFIG",
        default_value = "relay.toml"
    )]
    pub(super) config: PathBuf,

    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  integration-relay config check                              is relay.toml right, and what does it mean
  integration-relay tenant create acme                        a customer's space
  integration-relay key create --tenant acme --role bridge    what `integration-bridge pair` asks for
  integration-relay key create --tenant acme --role caller    what callers send as HTTP Basic
  integration-relay serve                                     run; commands above work meanwhile";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the relay. SIGTERM or Ctrl-C lets what runs finish, then ends it.
    Serve,
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Customers' spaces.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Bridges that are paired.
    #[command(subcommand)]
    Bridge(BridgeCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Read it, say what it means, and fail on a mistake. Opens and changes nothing.
    Check,
}

#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Create one. One that is there stays as it is.
    Create {
        /// 1 to 64 letters, digits, `.`, `_` or `-`.
        name: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// List all.
    List {
        /// Print a JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Refuse its keys and cut off its bridges, until it is resumed.
    Suspend {
        /// Its name.
        name: String,
    },
    /// Let it work again.
    Resume {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Create one. Its secret is shown this one time.
    #[command(after_help = "\
Examples:
  integration-relay key create --tenant acme --role bridge --name berlin
  integration-relay key create --tenant acme --role bridge --existing replace   re-install a bridge
  integration-relay key create --tenant acme --role synchronizer --json")]
    Create {
        /// Whose it is.
        #[arg(long, value_name = "NAME")]
        tenant: String,
        /// bridge (pair bridges), caller (calls and endpoints), synchronizer (endpoints, much
        /// traffic), admin (all of these but pairing, and revoking bridges).
        #[arg(long, value_name = "ROLE")]
        role: Role,
        /// A name for people.
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// Let a bridge key pair under a name that exists: `join` adds an installation beside the
        /// others, `replace` revokes the others.
        #[arg(long, value_name = "join|replace")]
        existing: Option<Existing>,
        /// Print one JSON object: client_id, client_secret, ...
        #[arg(long)]
        json: bool,
    },
    /// List all, revoked ones included. Secrets are not known.
    List {
        /// Only this tenant's.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Print a JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Make one invalid. What runs with it is cut off within two seconds.
    Revoke {
        /// As `key list` shows it.
        client_id: String,
        /// Leave the bridges alone that were paired with it; otherwise they are revoked, too.
        #[arg(long)]
        keep_bridges: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum BridgeCommand {
    /// List all that were ever paired.
    List {
        /// Only this tenant's.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Print a JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Cut one off within two seconds. Its name becomes free.
    Revoke {
        /// Its name.
        name: String,
        /// Whose it is; not needed where there is one tenant.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
    },
}

impl Args {
    /// What clap cannot say by itself.
    pub(super) fn mistake(&self) -> Option<&'static str> {
        match &self.command {
            Command::Key(KeyCommand::Create { role, existing, .. })
                if existing.is_some() && *role != Role::Bridge =>
            {
                Some("--existing is for keys with --role bridge")
            }
            _ => None,
        }
    }
}
