//! `tenant create | list | show | suspend | resume | direct | expires | notices | delete`.

use super::args::{JsonObject, TenantCommand};
use super::{CliError, output};
use crate::api::timestamp::Timestamp;
use crate::config::EXPIRES_IN_MAX_S;
use crate::storage::tenants::TenantChange;
use crate::storage::{Storage, StorageError, Tenant, TenantState};
use runtime::time::to_minute;
use serde_json::{Value, json};

pub(super) async fn run(storage: &Storage, command: TenantCommand) -> Result<(), CliError> {
    match command {
        TenantCommand::Create {
            name,
            output: JsonObject { json },
        } => {
            // Setup scripts may run repeatedly, so an existing tenant is a success.
            let (tenant, is_new) = match storage.create_tenant(&name).await {
                Err(StorageError::Conflict(_)) => (storage.tenant(&name).await?, false),
                created => (created?, true),
            };
            if json {
                return output::json(&document(&tenant));
            }
            output::lines(&[
                match is_new {
                    true => format!("Tenant {name} is created."),
                    false => format!("Tenant {name} existed already and is unchanged."),
                },
                format!(
                    "Next: integration-relay key create --tenant {name} --role bridge|caller|synchronizer|admin"
                ),
            ])
        }
        TenantCommand::List { json } => {
            let tenants = storage.tenants().await?;
            if json {
                return output::json(&tenants.iter().map(document).collect());
            }
            let rows: Vec<_> = tenants
                .iter()
                .map(|tenant| {
                    [
                        tenant.name.clone(),
                        tenant.id.to_string(),
                        tenant.state.to_string(),
                        to_minute(tenant.created),
                    ]
                })
                .collect();
            output::table(
                ["NAME", "ID", "STATE", "CREATED"],
                &rows,
                "There are no tenants.",
            )
        }
        TenantCommand::Suspend { name } => {
            storage
                .set_tenant_state(&name, TenantState::Suspended)
                .await?;
            output::lines(&[format!(
                "Tenant {name} is suspended: its keys are refused and its bridges disconnected."
            )])
        }
        TenantCommand::Resume { name } => {
            storage.set_tenant_state(&name, TenantState::Active).await?;
            output::lines(&[format!("Tenant {name} is active again.")])
        }
        TenantCommand::Show {
            name,
            output: JsonObject { json },
        } => {
            // Fails for an unknown name before it asks for a confirmation.
            let tenant = storage.tenant(&name).await?;
            if json {
                return output::json(&document(&tenant));
            }
            let direct = match tenant.direct_urls.is_empty() {
                true => "none".to_owned(),
                false => tenant.direct_urls.join(", "),
            };
            output::lines(&[
                format!("Tenant {name}"),
                format!("  id           {}", tenant.id),
                format!("  state        {}", tenant.state),
                format!("  created      {}", to_minute(tenant.created)),
                format!("  direct URLs  {direct}"),
                format!(
                    "  notices to   {}",
                    tenant.notice_url.as_deref().unwrap_or("nowhere")
                ),
                format!("  calls expire {}", expiry(tenant.expires_in)),
            ])
        }
        TenantCommand::Direct { name, allow, .. } => {
            crate::direct::pattern::check_all(&allow).map_err(StorageError::Invalid)?;
            let change = TenantChange {
                direct_urls: Some(allow.clone()),
                ..TenantChange::default()
            };
            storage.change_tenant(&name, &change, None).await?;
            output::lines(&[match allow.is_empty() {
                true => format!("The relay calls no URL directly for tenant {name}."),
                false => format!(
                    "The relay may call {} directly for tenant {name}.",
                    allow.join(", ")
                ),
            }])
        }
        TenantCommand::Expires {
            name, after, never, ..
        } => {
            let after = after.map(|span| i64::try_from(span.0.as_secs()).unwrap_or(i64::MAX));
            if after.is_some_and(|seconds| !(1..=i64::from(EXPIRES_IN_MAX_S)).contains(&seconds)) {
                let text = "--after must be from 1s to 3650d".to_owned();
                return Err(StorageError::Invalid(text).into());
            }
            let expires_in = if never { Some(0) } else { after };
            let change = TenantChange {
                expires_in: Some(expires_in),
                ..TenantChange::default()
            };
            storage.change_tenant(&name, &change, None).await?;
            output::lines(&[format!(
                "Calls that tenant {name} hands over from now on expire {}, unless they say \
                 otherwise.",
                expiry(expires_in)
            )])
        }
        TenantCommand::Notices { name, url, .. } => {
            if let Some(url) = &url {
                crate::notices::check_url(url).map_err(StorageError::Invalid)?;
            }
            let change = TenantChange {
                notice_url: Some(url.clone()),
                ..TenantChange::default()
            };
            storage.change_tenant(&name, &change, None).await?;
            output::lines(&[match url {
                Some(url) => format!("Notices of tenant {name} are sent to {url}."),
                None => format!("Notices of tenant {name} are only shown in the API."),
            }])
        }
        TenantCommand::Delete { name, yes } => {
            storage.tenant(&name).await?;
            if !yes && !is_confirmed(&name)? {
                return output::lines(&["Nothing was deleted."]);
            }
            storage.delete_tenant(&name, None).await?;
            output::lines(&[
                format!("Tenant {name} is deleted."),
                "A running relay disconnects its bridges within two seconds.".into(),
            ])
        }
    }
}

/// Returns when a tenant's calls expire, for people.
fn expiry(expires_in: Option<i64>) -> String {
    match expires_in {
        None => "by deliveries.expires_in of the config".to_owned(),
        Some(0) => "never".to_owned(),
        Some(seconds) => format!("after {}", span(seconds)),
    }
}

/// Returns a time in the largest unit that divides it.
fn span(seconds: i64) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let unit = units
        .into_iter()
        .find(|(unit, _)| seconds > 0 && seconds % unit == 0);
    let (unit, noun) = unit.unwrap_or((1, "second"));
    runtime::output::counted(seconds / unit, noun)
}

/// Asks for the tenant's name, since a deletion cannot be undone.
fn is_confirmed(name: &str) -> Result<bool, CliError> {
    output::lines(&[format!(
        "This deletes tenant {name} with its keys, bridges, stored calls and secrets. Type its name to continue:"
    )])?;
    let mut typed = String::new();
    std::io::stdin()
        .read_line(&mut typed)
        .map_err(CliError::Output)?;
    Ok(typed.trim() == name)
}

fn document(tenant: &Tenant) -> Value {
    json!({
        "id": tenant.id,
        "name": tenant.name,
        "state": tenant.state.as_str(),
        "created_at": Timestamp::Seconds(tenant.created),
        "direct_urls": tenant.direct_urls,
        "notice_url": tenant.notice_url,
        "expires_in": tenant.expires_in,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_has_the_largest_unit() {
        for (seconds, text) in [
            (604_800, "after 7 days"),
            (86_400, "after 1 day"),
            (5_400, "after 90 minutes"),
            (61, "after 61 seconds"),
            (0, "never"),
        ] {
            assert_eq!(expiry(Some(seconds)), text);
        }
    }
}
