//! The arguments of the command line.

use super::pairing_file::BundleOptions;
use crate::config::ConfigDuration;
use crate::storage::{Existing, Role, audit};
use clap::{Args as ClapArgs, Parser, Subcommand};
use std::path::PathBuf;

/// The relay of the Integration Bridge. Bridges dial to it, and callers send requests to it.
#[derive(Debug, Parser)]
#[command(name = "integration-relay", version, about, after_help = EXAMPLES)]
pub(super) struct Args {
    /// Config file.
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
  integration-relay config check                            check relay.toml, print a summary
  integration-relay tenant create acme                      create a tenant
  integration-relay key create --tenant acme --role bridge  the key for `integration-bridge pair`
  integration-relay key create --tenant acme --role caller  the key that callers send
  integration-relay serve                                   run; other commands work meanwhile";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the relay. SIGTERM or Ctrl-C drains and stops it, SIGHUP reloads the config and opens the log file again.
    Serve,
    /// Make the running relay read its config again. Fails if the relay rejects it, and prints why.
    Reload,
    /// Ask the running relay whether it works. Exit code 0: it does; 1: it does not, or does not respond. For health
    /// checks of containers.
    ///
    /// The request goes to `listen.admin` if it is set, else to `listen.internal`, else to `listen.public`.
    Health {
        /// Ask whether it serves bridges and callers. A relay in standby works and does not serve.
        #[arg(long)]
        ready: bool,
    },
    /// Create the database and the first site administrator's key, which is shown only once: on a terminal, or in a
    /// file next to `storage.key_file`.
    Init {
        #[command(flatten)]
        output: JsonObject,
    },
    /// Check the config.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Manage tenants.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Manage API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Manage paired bridges.
    #[command(subcommand)]
    Bridge(BridgeCommand),
    /// Pause and resume the delivery of stored calls.
    #[command(subcommand)]
    Deliveries(DeliveriesCommand),
    /// Read and verify the audit record.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Copy the database to a new file. The relay may run.
    #[command(after_help = BACKUP_HELP)]
    Backup {
        /// The new file. It must not exist.
        file: PathBuf,
    },
    /// Replace the database by a backup, and pause deliveries. The relay must not run.
    #[command(after_help = BACKUP_HELP)]
    Restore {
        /// A file that `backup` created.
        file: PathBuf,
        /// Move an existing database aside.
        #[arg(long)]
        replace: bool,
    },
    /// Print the OpenAPI 3.1 document of the HTTP API.
    Openapi,
    /// Write the man pages, one for each command.
    #[command(hide = true)]
    Man(manual::PagesArgs),
    /// Print the script that completes this command line in a shell.
    #[command(hide = true)]
    Completions(manual::CompletionsArgs),
}

const BACKUP_HELP: &str = "\
Examples:
  integration-relay backup /backup/relay.db
  integration-relay restore /backup/relay.db --replace

A backup does not contain the key file (storage.key_file). Keep a copy of it in another place:
without it, stored calls cannot be decrypted. After a restore, deliveries are paused, because the
relay cannot know what was delivered since the backup. Review the pending calls, then run
`integration-relay deliveries resume`. With PostgreSQL use pg_dump and pg_restore, and run
`integration-relay deliveries pause` before the relay starts.";

/// The option of commands that print one result.
#[derive(Debug, ClapArgs)]
pub(super) struct JsonObject {
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

/// The options of commands that list objects of tenants.
#[derive(Debug, ClapArgs)]
pub(super) struct ListOptions {
    /// List only this tenant's. Defaults to all tenants.
    #[arg(long, value_name = "NAME")]
    pub(super) tenant: Option<String>,
    /// Print a JSON list.
    #[arg(long)]
    pub(super) json: bool,
}

/// The arguments that name one bridge.
#[derive(Debug, ClapArgs)]
pub(super) struct BridgeName {
    /// Name of the bridge.
    pub(super) name: String,
    /// Tenant of the bridge. Defaults to the only tenant, if there is one.
    #[arg(long, value_name = "NAME")]
    pub(super) tenant: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeliveriesCommand {
    /// Print whether deliveries are paused, and how many calls are queued.
    Status {
        #[command(flatten)]
        output: JsonObject,
    },
    /// Start no further attempts. The relay still accepts and stores calls.
    Pause,
    /// Resume deliveries.
    Resume,
}

/// Characters of a seal's signature: HMAC-SHA-256 in hexadecimal.
const SIGNATURE_CHARS: usize = 64;

fn seal(text: &str) -> Result<(i64, String), String> {
    let (number, mac) = text.split_once(':').ok_or("write NUMBER:SIGNATURE")?;
    let number = number
        .parse()
        .map_err(|_| "the part before ':' is not a number")?;
    if mac.len() != SIGNATURE_CHARS || !mac.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!(
            "the part after ':' is not a signature, which has {SIGNATURE_CHARS} hexadecimal digits"
        ));
    }
    Ok((number, mac.to_ascii_lowercase()))
}

fn action(text: &str) -> Result<String, String> {
    audit::check_action(text).map(|()| text.to_owned())
}

fn result(text: &str) -> Result<String, String> {
    audit::check_result(text).map(|()| text.to_owned())
}

fn status(text: &str) -> Result<u16, String> {
    let status = text
        .parse()
        .ok()
        .filter(|status| (100..1000).contains(status));
    status.ok_or_else(|| "must be a number from 100 to 999".to_owned())
}

fn limit(text: &str) -> Result<u32, String> {
    let limit = text
        .parse()
        .ok()
        .filter(|limit| (1..=10_000).contains(limit));
    limit.ok_or_else(|| "must be a number from 1 to 10000".to_owned())
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Compare the rows with their seals, and count those that could not be stored. Exit code 1: a row was changed,
    /// added, removed or not stored; 4: no defect was found, but rows may be missing.
    Verify {
        /// Number and signature of a seal, as an earlier run has printed them: the record must still have it.
        #[arg(long, value_name = "NUMBER:SIGNATURE", value_parser = seal)]
        head: Option<(i64, String)>,
        #[command(flatten)]
        output: JsonObject,
    },
    /// List rows, newest first.
    #[command(after_help = "\
Examples:
  integration-relay audit list --tenant acme --limit 20
  integration-relay audit list --object call_0123456789abcdef0123456789abcdef
  integration-relay audit list --tenant acme --result failed
  integration-relay audit list --action key.create --json")]
    List {
        #[command(flatten)]
        list: ListOptions,
        /// List only this action, such as key.create.
        #[arg(long, value_parser = action)]
        action: Option<String>,
        /// List only this actor: a client id, cli:ACCOUNT, or relay.
        #[arg(long)]
        actor: Option<String>,
        /// List only this object: the id of a call or key, or a name.
        #[arg(long)]
        object: Option<String>,
        /// List only this result: ok, a code, or failed for every code.
        #[arg(long, value_parser = result)]
        result: Option<String>,
        /// List only requests that the target answered with this status.
        #[arg(long, value_parser = status)]
        status: Option<u16>,
        /// Maximum number of rows, 1 to 10000.
        #[arg(long, default_value_t = 100, value_parser = limit)]
        limit: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the config file, and the files and the database that it names, and print a summary. Changes nothing.
    Check,
}

#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Create a tenant. An existing tenant stays unchanged.
    Create {
        /// Name of the tenant: 1 to 64 letters, digits, `.`, `_` or `-`.
        name: String,
        #[command(flatten)]
        output: JsonObject,
    },
    /// List all tenants.
    List {
        /// Print a JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Refuse a tenant's keys and disconnect its bridges until it is resumed.
    Suspend {
        /// Name of the tenant.
        name: String,
    },
    /// Activate a suspended tenant again.
    Resume {
        /// Name of the tenant.
        name: String,
    },
    /// Show a tenant.
    Show {
        /// Name of the tenant.
        name: String,
        #[command(flatten)]
        output: JsonObject,
    },
    /// Set the public URLs that the relay may call directly for a tenant. A new tenant has none.
    #[command(after_help = "\
Examples:
  integration-relay tenant direct acme --allow 'https://hooks.example.com/*'
  integration-relay tenant direct acme --none")]
    Direct {
        /// Name of the tenant.
        name: String,
        /// URL pattern: scheme, host or *.host, optionally a port and a path. May be repeated. Replaces the
        /// current patterns.
        #[arg(
            long,
            value_name = "PATTERN",
            conflicts_with = "none",
            required_unless_present = "none"
        )]
        allow: Vec<String>,
        /// Allow no URL.
        #[arg(long)]
        none: bool,
    },
    /// Set when a tenant's stored calls expire, unless a call sets it itself.
    #[command(after_help = "\
Examples:
  integration-relay tenant expires acme --after 7d
  integration-relay tenant expires acme --never
  integration-relay tenant expires acme --default     as deliveries.expires_in in relay.toml")]
    Expires {
        /// Name of the tenant.
        name: String,
        /// Expire after this time, such as 12h or 7d; 1s to 3650d.
        #[arg(long, value_name = "TIME", required_unless_present_any = ["never", "default"])]
        after: Option<ConfigDuration>,
        /// Never expire.
        #[arg(long, conflicts_with_all = ["after", "default"])]
        never: bool,
        /// Expire by deliveries.expires_in of the config.
        #[arg(long, conflicts_with = "after")]
        default: bool,
    },
    /// Set the URL that receives a tenant's notices as signed deliveries. A new tenant has none.
    #[command(after_help = "\
Examples:
  integration-relay tenant notices acme --url https://ops.example.com/hooks/bridge
  integration-relay tenant notices acme --none")]
    Notices {
        /// Name of the tenant.
        name: String,
        /// Absolute http or https URL.
        #[arg(long, conflicts_with = "none", required_unless_present = "none")]
        url: Option<String>,
        /// Send notices to no URL. The API still shows them.
        #[arg(long)]
        none: bool,
    },
    /// Delete a tenant with its keys, bridges, stored calls and secrets. This cannot be undone.
    Delete {
        /// Name of the tenant.
        name: String,
        /// Do not ask for confirmation.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Create an API key. Its secret is shown only once.
    #[command(after_help = "\
Examples:
  integration-relay key create --tenant acme --role bridge --bridge berlin --bundle berlin.json
  integration-relay key create --tenant acme --role bridge --existing replace
  integration-relay key create --tenant acme --role caller --expires 90d --host '*.corp.example'
  integration-relay key create --tenant acme --role synchronizer --json")]
    Create {
        /// Tenant of the key. Required, except for the role site-admin.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Role of the key: bridge (pairs bridges), caller (calls and endpoints), synchronizer (endpoints
        /// with bulk traffic), admin (all of these but pairing, and manages keys and bridges), site-admin
        /// (manages tenants; for the relay's operators).
        #[arg(long, value_name = "ROLE")]
        role: Role,
        /// Name of the key, for people.
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// Let a bridge key pair under the name of an existing bridge: `join` adds an installation to the
        /// existing ones, `replace` revokes them. By default such a pairing is refused.
        #[arg(long, value_name = "join|replace")]
        existing: Option<Existing>,
        /// Expire after this time, such as 90d. Defaults to never.
        #[arg(long, value_name = "TIME")]
        expires: Option<ConfigDuration>,
        /// Narrow the key to this bridge. May be repeated.
        #[arg(long, value_name = "NAME")]
        bridge: Vec<String>,
        /// Narrow the key to this endpoint. May be repeated.
        #[arg(long, value_name = "NAME")]
        endpoint: Vec<String>,
        /// Narrow the key to calls to this host or host pattern. May be repeated.
        #[arg(long, value_name = "PATTERN")]
        host: Vec<String>,
        /// Narrow the key to this credential. May be repeated.
        #[arg(long, value_name = "NAME")]
        credential: Vec<String>,
        #[command(flatten)]
        file: BundleOptions,
        #[command(flatten)]
        output: JsonObject,
    },
    /// List API keys, including revoked ones. Secrets are not shown.
    List {
        #[command(flatten)]
        list: ListOptions,
    },
    /// Replace the secret of an API key. The new one is shown only once.
    #[command(after_help = "\
Example:
  integration-relay key rotate ibk_0123456789 --overlap 1h")]
    Rotate {
        /// Client id, as `key list` shows it.
        client_id: String,
        /// How long the previous secret stays valid, at most 30d.
        #[arg(long, value_name = "TIME", default_value = "24h")]
        overlap: ConfigDuration,
        #[command(flatten)]
        output: JsonObject,
    },
    /// Revoke an API key. The relay closes what uses it within two seconds.
    Revoke {
        /// Client id, as `key list` shows it.
        client_id: String,
        /// Do not revoke the bridges that were paired with the key.
        #[arg(long)]
        keep_bridges: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum BridgeCommand {
    /// List all bridges, including revoked ones.
    List {
        #[command(flatten)]
        list: ListOptions,
    },
    /// Disconnect a bridge within two seconds, until it is enabled. Its name and installations stay.
    Disable {
        #[command(flatten)]
        bridge: BridgeName,
    },
    /// Let a disabled bridge connect again, which it does within about a minute.
    Enable {
        #[command(flatten)]
        bridge: BridgeName,
    },
    /// List endpoint names with their owners.
    Endpoints {
        #[command(flatten)]
        list: ListOptions,
    },
    /// Assign an endpoint name to a bridge. By default the first bridge that declares a name owns it.
    #[command(after_help = "\
Examples:
  integration-relay bridge assign dc1 --endpoint alm           only dc1 owns the name
  integration-relay bridge assign dc2 --endpoint alm --also    a redundant pair")]
    Assign {
        #[command(flatten)]
        bridge: BridgeName,
        /// Name of the endpoint.
        #[arg(long, value_name = "NAME")]
        endpoint: String,
        /// Keep the current owners of the name as well.
        #[arg(long)]
        also: bool,
    },
    /// Release an endpoint name from a bridge. A name without an owner goes to the first bridge that
    /// declares it.
    Release {
        #[command(flatten)]
        bridge: BridgeName,
        /// Name of the endpoint.
        #[arg(long, value_name = "NAME")]
        endpoint: String,
    },
    /// Allow TLS inspection between a bridge and the relay.
    ///
    /// Use it if a middlebox terminates TLS. Without it, the relay refuses the bridge with
    /// `channel_binding`. It takes effect with the bridge's next tunnel.
    #[command(after_help = "\
Examples:
  integration-relay bridge allow-tls-inspection dc1
  integration-relay bridge allow-tls-inspection dc1 --no     forbid it again")]
    AllowTlsInspection {
        #[command(flatten)]
        bridge: BridgeName,
        /// Forbid TLS inspection again.
        #[arg(long)]
        no: bool,
    },
    /// Revoke a bridge and disconnect it within two seconds. Its name becomes free.
    Revoke {
        #[command(flatten)]
        bridge: BridgeName,
    },
}

impl Args {
    /// Returns a mistake that clap's own rules cannot express.
    pub(super) fn mistake(&self) -> Option<&'static str> {
        match &self.command {
            Command::Key(KeyCommand::Create { role, existing, .. })
                if existing.is_some() && *role != Role::Bridge =>
            {
                Some("--existing requires --role bridge")
            }
            Command::Key(KeyCommand::Create { role, file, .. })
                if file.bundle.is_some() && *role != Role::Bridge =>
            {
                Some("--bundle requires --role bridge")
            }
            Command::Key(KeyCommand::Create { role, tenant, .. }) => match (role, tenant) {
                (Role::SiteAdmin, Some(_)) => {
                    Some("a key with the role site-admin has no --tenant")
                }
                (Role::SiteAdmin, None) | (_, Some(_)) => None,
                (_, None) => Some("--tenant NAME is missing: the tenant of the key"),
            },
            Command::Serve
            | Command::Reload
            | Command::Health { .. }
            | Command::Init { .. }
            | Command::Config(_)
            | Command::Tenant(_)
            | Command::Key(_)
            | Command::Bridge(_)
            | Command::Deliveries(_)
            | Command::Audit(_)
            | Command::Backup { .. }
            | Command::Restore { .. }
            | Command::Openapi
            | Command::Man(_)
            | Command::Completions(_) => None,
        }
    }
}
