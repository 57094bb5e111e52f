//! What can be written on the command line.

use crate::config::ConfigDuration;
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
    /// Make the database and the first key of a site administrator, which is shown this one time.
    Init {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
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
    /// Stored calls.
    #[command(subcommand)]
    Deliveries(DeliveriesCommand),
    /// The record of who did what.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Copy the database into a new file, while the relay runs.
    #[command(after_help = BACKUP_HELP)]
    Backup {
        /// Where to; must not exist.
        file: PathBuf,
    },
    /// Put a backup in the database's place. The relay must not run. Deliveries are then paused.
    #[command(after_help = BACKUP_HELP)]
    Restore {
        /// A file that `backup` made.
        file: PathBuf,
        /// Move a database that is there aside.
        #[arg(long)]
        replace: bool,
    },
    /// Print the description of the HTTP API (OpenAPI 3.1).
    Openapi,
}

const BACKUP_HELP: &str = "\
The key file (storage.key_file) is not in a backup: keep a copy of it apart. Without it, what is stored of
deliveries cannot be read. After a restore, deliveries stand still, because what has been delivered since
the backup is not known: look at what is pending, then `integration-relay deliveries resume`.
With PostgreSQL use pg_dump and pg_restore, and `integration-relay deliveries pause` before the relay starts.";

#[derive(Debug, Subcommand)]
pub(super) enum DeliveriesCommand {
    /// Say whether they are paused, and what waits.
    Status {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Begin no further attempt. Calls are still taken and stored.
    Pause,
    /// Go on.
    Resume,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Count its rows, and those that could not be written. Exit code 1 if any could not.
    Verify {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// List it, newest first.
    List {
        /// Only this tenant's.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Only this action, such as key.create.
        #[arg(long)]
        action: Option<String>,
        /// Only of this actor.
        #[arg(long)]
        actor: Option<String>,
        /// At most so many rows, 1 to 10000.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Print a JSON list.
        #[arg(long)]
        json: bool,
    },
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
    /// Show one.
    Show {
        /// Its name.
        name: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Say which public URLs the relay may call itself for it; none by default.
    #[command(after_help = "\
Examples:
  integration-relay tenant direct acme --allow 'https://hooks.example.com/*'
  integration-relay tenant direct acme --none")]
    Direct {
        /// Its name.
        name: String,
        /// A pattern: scheme, host (or *.host), perhaps a port and a path. Replaces those before.
        #[arg(
            long,
            value_name = "PATTERN",
            conflicts_with = "none",
            required_unless_present = "none"
        )]
        allow: Vec<String>,
        /// Allow none.
        #[arg(long)]
        none: bool,
    },
    /// Say after how long its stored calls expire, where they do not say so themselves.
    #[command(after_help = "\
Examples:
  integration-relay tenant expires acme --after 7d
  integration-relay tenant expires acme --never
  integration-relay tenant expires acme --default     as deliveries.expires_in in relay.toml says")]
    Expires {
        /// Its name.
        name: String,
        /// After so long, at most 3650d.
        #[arg(long, value_name = "TIME", required_unless_present_any = ["never", "default"])]
        after: Option<ConfigDuration>,
        /// Never.
        #[arg(long, conflicts_with_all = ["after", "default"])]
        never: bool,
        /// As the relay's configuration says.
        #[arg(long, conflicts_with = "after")]
        default: bool,
    },
    /// Say where its notices are sent as signed deliveries; nowhere by default.
    #[command(after_help = "\
Examples:
  integration-relay tenant notices acme --url https://ops.example.com/hooks/bridge
  integration-relay tenant notices acme --none")]
    Notices {
        /// Its name.
        name: String,
        /// An absolute http or https URL.
        #[arg(long, conflicts_with = "none", required_unless_present = "none")]
        url: Option<String>,
        /// Send them nowhere. The API shows them in any case.
        #[arg(long)]
        none: bool,
    },
    /// Delete it with its keys, bridges, stored calls and secrets. Cannot be undone.
    Delete {
        /// Its name.
        name: String,
        /// Do not ask for the name again.
        #[arg(long)]
        yes: bool,
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
        /// Whose it is; not for site-admin.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// bridge (pair bridges), caller (calls and endpoints), synchronizer (endpoints, much
        /// traffic), admin (all of these but pairing, and managing keys and bridges), site-admin
        /// (tenants; belongs to the relay's operators).
        #[arg(long, value_name = "ROLE")]
        role: Role,
        /// A name for people.
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// Let a bridge key pair under a name that exists: `join` adds an installation beside the
        /// others, `replace` revokes the others.
        #[arg(long, value_name = "join|replace")]
        existing: Option<Existing>,
        /// Make it valid for so long, as in 90d. Without, it has no end.
        #[arg(long, value_name = "TIME")]
        expires: Option<ConfigDuration>,
        /// Narrow it to this bridge; may be repeated.
        #[arg(long, value_name = "NAME")]
        bridge: Vec<String>,
        /// Narrow it to this endpoint; may be repeated.
        #[arg(long, value_name = "NAME")]
        endpoint: Vec<String>,
        /// Narrow it to calls to this host or pattern; may be repeated.
        #[arg(long, value_name = "PATTERN")]
        host: Vec<String>,
        /// Narrow it to this credential; may be repeated.
        #[arg(long, value_name = "NAME")]
        credential: Vec<String>,
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
    /// Give one another secret, shown this one time. The one before stays good for a while.
    Rotate {
        /// As `key list` shows it.
        client_id: String,
        /// How long the secret before stays good, at most 30d.
        #[arg(long, value_name = "TIME", default_value = "24h")]
        overlap: ConfigDuration,
        /// Print one JSON object.
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
    /// Cut one off within two seconds, until it is enabled. Its name and installations stay.
    Disable {
        /// Its name.
        name: String,
        /// Whose it is; not needed where there is one tenant.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
    },
    /// Let a disabled one come back, which it does within about a minute.
    Enable {
        /// Its name.
        name: String,
        /// Whose it is; not needed where there is one tenant.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
    },
    /// List which endpoint names belong to which bridges.
    Endpoints {
        /// Only this tenant's.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Print a JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Give an endpoint's name to a bridge. Without this it belongs to the one that declared it first.
    Assign {
        /// The bridge's name.
        name: String,
        /// The endpoint's name.
        #[arg(long, value_name = "NAME")]
        endpoint: String,
        /// Leave it to the bridges that have it, too, as for a redundant pair.
        #[arg(long)]
        also: bool,
        /// Whose it is; not needed where there is one tenant.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
    },
    /// Take an endpoint's name from a bridge. A name that none has goes to the first that declares it.
    Release {
        /// The bridge's name.
        name: String,
        /// The endpoint's name.
        #[arg(long, value_name = "NAME")]
        endpoint: String,
        /// Whose it is; not needed where there is one tenant.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
    },
    /// Say that something between one and the relay ends TLS (inspection by a proxy); without this such a
    /// bridge is refused with `channel_binding`.
    Inspected {
        /// Its name.
        name: String,
        /// Whose it is; not needed where there is one tenant.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Take it back.
        #[arg(long)]
        no: bool,
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
            Command::Key(KeyCommand::Create { role, tenant, .. }) => match (role, tenant) {
                (Role::SiteAdmin, Some(_)) => Some("a site-admin key has no --tenant"),
                (Role::SiteAdmin, None) | (_, Some(_)) => None,
                (_, None) => Some("--tenant NAME is missing: whose key shall it be?"),
            },
            _ => None,
        }
    }
}
