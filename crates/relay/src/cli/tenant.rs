//! `tenant create | list | suspend | resume`.

use super::args::TenantCommand;
use super::{CliError, output};
use crate::storage::{Storage, StorageError, Tenant, TenantState};
use serde_json::{Value, json};

pub(super) async fn run(storage: &Storage, command: TenantCommand) -> Result<(), CliError> {
    match command {
        TenantCommand::Create { name, json } => {
            // Whoever sets a relay up by a script may run it again.
            let tenant = match storage.create_tenant(&name).await {
                Err(StorageError::Conflict(_)) => storage.tenant(&name).await?,
                created => created?,
            };
            if json {
                return output::json(&document(&tenant));
            }
            output::lines(&[
                format!("Tenant {name} is there."),
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
                        output::moment(tenant.created),
                    ]
                })
                .collect();
            output::table(
                ["NAME", "ID", "STATE", "CREATED"],
                &rows,
                "There are no tenants yet.",
            )
        }
        TenantCommand::Suspend { name } => {
            storage
                .set_tenant_state(&name, TenantState::Suspended)
                .await?;
            output::lines(&[format!(
                "Tenant {name} is suspended: its keys are refused and its bridges cut off."
            )])
        }
        TenantCommand::Resume { name } => {
            storage.set_tenant_state(&name, TenantState::Active).await?;
            output::lines(&[format!("Tenant {name} may work again.")])
        }
    }
}

fn document(tenant: &Tenant) -> Value {
    json!({
        "id": tenant.id,
        "name": tenant.name,
        "state": tenant.state.as_str(),
        "created": tenant.created,
    })
}
