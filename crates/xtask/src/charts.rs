//! `cargo xtask charts`: checks the Helm charts in `deploy/charts`.
//!
//! ```text
//! ci/*.yaml --> helm lint --strict, helm template --> schemas of Kubernetes, texts that must or must not be there
//! REFUSED   --> helm template must fail, with this text
//! ```
//!
//! The tests of relay and bridge read the configs in the values (`tests/examples.rs`).

mod tools;

use crate::step::{Failed, Step, profile_dir, root};
use crate::tool;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tools::Schemas;
pub(crate) use tools::helm;

/// The charts, from the root.
const CHARTS: &str = "deploy/charts";

/// The oldest version of Kubernetes whose schemas are checked, and the newest that the validator has.
const KUBERNETES: [&str; 2] = ["1.30", "1.37"];

/// Kinds that Kubernetes does not define itself.
const FOREIGN: [&str; 1] = ["ServiceMonitor"];

/// What every chart must render, with any values.
const ALWAYS: [&str; 8] = [
    "runAsNonRoot: true",
    "seccompProfile: {type: RuntimeDefault}",
    "readOnlyRootFilesystem: true",
    "allowPrivilegeEscalation: false",
    "capabilities: {drop: [ALL]}",
    "automountServiceAccountToken: false",
    "enableServiceLinks: false",
    "readinessProbe:",
];

/// What no chart may render: secrets are files that exist in the cluster.
const NEVER: [&str; 2] = ["kind: Secret\n", "privileged: true"];

/// Values, and what they render.
struct Rendered {
    chart: &'static str,
    /// A file in `ci/`, without `.yaml`.
    values: &'static str,
    has: &'static [&'static str],
    lacks: &'static [&'static str],
}

const RENDERED: &[Rendered] = &[
    Rendered {
        chart: "integration-bridge",
        values: "minimal",
        has: &[
            "kind: StatefulSet",
            "kind: NetworkPolicy",
            "BRIDGE_LIMITS_MEMORY_MAX, value: \"192MiB\"",
        ],
        lacks: &[
            "- Egress",
            "BRIDGE_CLIENT_ID",
            "BRIDGE_BUNDLE_FILE",
            "BRIDGE_KEY_FILE",
            "checksum/config",
            "kind: PodDisruptionBudget",
        ],
    },
    Rendered {
        chart: "integration-bridge",
        values: "pairing-file",
        has: &[
            "BRIDGE_BUNDLE_FILE, value: /run/secrets/integration-bridge-pairing/berlin.json",
            "secretName: bridge-pairing",
            "optional: true",
        ],
        lacks: &["BRIDGE_RELAY_URL", "BRIDGE_NAME", "BRIDGE_CLIENT_ID"],
    },
    Rendered {
        chart: "integration-bridge",
        values: "all",
        has: &[
            "BRIDGE_LIMITS_MEMORY_MAX, value: \"768MiB\"",
            "BRIDGE_RELAY_CA_FILE, value: /etc/integration-bridge-ca/ca.pem",
            "- Egress",
            "checksum/config",
            "kind: PodDisruptionBudget",
            "integration-bridge@sha256:",
        ],
        lacks: &["claimName"],
    },
    Rendered {
        chart: "integration-bridge",
        values: "existing-volume",
        has: &[
            "claimName: bridge-data",
            "value: \"100MiB\"",
            "secretName: relay-ca",
        ],
        lacks: &[
            "volumeClaimTemplates",
            "kind: NetworkPolicy",
            "kind: ServiceAccount",
        ],
    },
    Rendered {
        chart: "integration-relay",
        values: "sqlite",
        has: &[
            "kind: StatefulSet",
            "replicas: 1\n",
            "value: \"127.0.0.1:9090\"",
            "terminationGracePeriodSeconds: 45",
        ],
        lacks: &[
            "RELAY_LISTEN_INSECURE",
            "RELAY_LISTEN_BEHIND_BALANCER",
            "kind: Deployment",
            "kind: Ingress",
            "kind: ServiceMonitor",
            "-internal",
        ],
    },
    Rendered {
        chart: "integration-relay",
        values: "postgres-standby",
        has: &[
            "kind: Deployment",
            "replicas: 2\n",
            "RELAY_STORAGE_URL_FILE",
            "subPath: relay-secrets.key",
            "terminationGracePeriodSeconds: 75",
            "topologyKey: kubernetes.io/hostname",
            "kind: ServiceMonitor",
            "kind: PodDisruptionBudget",
        ],
        lacks: &["kind: StatefulSet", "volumeClaimTemplates", "sqlite"],
    },
    Rendered {
        chart: "integration-relay",
        values: "behind-balancer",
        has: &[
            "RELAY_LISTEN_BEHIND_BALANCER",
            "RELAY_LISTEN_INSECURE",
            "kind: Ingress",
            "secretName: relay-public-tls",
        ],
        lacks: &[
            "RELAY_TLS_CERT_FILE",
            "kind: NetworkPolicy",
            "checksum/config",
        ],
    },
];

/// A value that the schema of a chart refuses, in addition to valid ones, and a part of the message.
struct Refused {
    chart: &'static str,
    values: &'static str,
    set: &'static str,
    says: &'static str,
}

const fn refused(
    (chart, values): (&'static str, &'static str),
    set: &'static str,
    says: &'static str,
) -> Refused {
    Refused {
        chart,
        values,
        set,
        says,
    }
}

const BRIDGE: (&str, &str) = ("integration-bridge", "minimal");
const RELAY: (&str, &str) = ("integration-relay", "sqlite");

const REFUSED: &[Refused] = &[
    refused(BRIDGE, "name=", "'/name'"),
    refused(BRIDGE, "relay.url=http://relay.example.com", "'/relay/url'"),
    refused(
        BRIDGE,
        "relay.url=https://u:p@relay.example.com",
        "'/relay/url'",
    ),
    refused(
        BRIDGE,
        "nmae=dc1",
        "additional properties 'nmae' not allowed",
    ),
    refused(
        BRIDGE,
        "pairing.clientSecret=x",
        "'clientSecret' not allowed",
    ),
    refused(
        BRIDGE,
        "pairing.bundleKey=berlin.json",
        "'/pairing/existingSecret': minLength",
    ),
    refused(BRIDGE, "runAsUser=0", "'/runAsUser': minimum"),
    refused(
        BRIDGE,
        "terminationGracePeriodSeconds=30",
        "'/terminationGracePeriodSeconds': minimum",
    ),
    refused(
        BRIDGE,
        "resources.limits.memory=268435456",
        "'/resources/limits/memory'",
    ),
    refused(
        BRIDGE,
        "relay.ca.configMap=a,relay.ca.secret=b",
        "'/relay/ca': 'anyOf' failed",
    ),
    refused(
        BRIDGE,
        "extraFiles[0].name=a,extraFiles[0].mountPath=/a",
        "'/extraFiles/0': 'oneOf' failed",
    ),
    refused(
        RELAY,
        "hostnames={https://relay.example.com}",
        "'/hostnames/0'",
    ),
    refused(
        RELAY,
        "tls.existingSecret=",
        "'/tls/existingSecret': minLength",
    ),
    refused(RELAY, "tls.terminatedBy=balancer", "'/tls/existingSecret'"),
    refused(RELAY, "replicaCount=2", "'/replicaCount': value must be 1"),
    refused(
        RELAY,
        "storage.type=postgres",
        "'/storage/encryption/existingSecret': minLength",
    ),
    refused(RELAY, "storage.postgres.url=x", "'url' not allowed"),
    refused(RELAY, "listen.address=127.0.0.1", "'/listen/address'"),
    refused(RELAY, "drainSeconds=0", "'/drainSeconds': minimum"),
    refused(
        RELAY,
        "metrics.serviceMonitor.enabled=true",
        "'/metrics/enabled': value must be true",
    ),
    refused(RELAY, "ingress.tlsSecret=x", "'/ingress/tlsSecret'"),
    refused(RELAY, "runAsUser=0", "'/runAsUser': minimum"),
];

/// Checks the charts. Without Helm it reports what was skipped, and fails in CI.
///
/// # Errors
/// The first mistake.
pub(crate) fn check() -> Result<(), Failed> {
    all_values_are_checked()?;
    let helm = match helm() {
        Ok(helm) => helm,
        Err(why) => return tool::skipped("helm lint, helm template, values of the charts", why),
    };
    for own in RENDERED {
        lint(&helm, own)?;
    }
    let mut manifests = Vec::new();
    for own in RENDERED {
        manifests.push(render(&helm, own)?);
    }
    println!("== values that the charts refuse");
    for own in REFUSED {
        refuse(&helm, own)?;
    }
    println!("   {} are refused", REFUSED.len());
    let schemas = match Schemas::install() {
        Ok(schemas) => schemas,
        Err(why) => return tool::skipped("the schemas of Kubernetes", why),
    };
    for version in KUBERNETES {
        println!("== manifests against the schemas of Kubernetes {version}");
        schemas.validate(&manifests, version, &FOREIGN)?;
    }
    Ok(())
}

/// Returns the path of a chart, from the root.
fn chart(name: &str) -> String {
    format!("{CHARTS}/{name}")
}

/// Returns the path of a file of values, from the root.
fn values(chart: &str, name: &str) -> String {
    format!("{CHARTS}/{chart}/ci/{name}.yaml")
}

fn lint(helm: &str, own: &Rendered) -> Result<(), Failed> {
    Step::program(helm)
        .args(["lint", "--strict", "--quiet", "--values"])
        .args([values(own.chart, own.values), chart(own.chart)])
        .run()
}

fn template(helm: &str, chart_name: &str, values_name: &str) -> Step {
    Step::program(helm)
        .args(["template", "release", "--namespace", "ci", "--values"])
        .args([values(chart_name, values_name), chart(chart_name)])
}

/// Renders a chart, checks the text, and returns its file.
fn render(helm: &str, own: &Rendered) -> Result<PathBuf, Failed> {
    let text = template(helm, own.chart, own.values).output()?;
    let name = format!("{} with {}", own.chart, own.values);
    for part in ALWAYS.iter().chain(own.has) {
        if !text.contains(part) {
            return Err(Failed::new(format!("{name}: `{part}` is missing")));
        }
    }
    for part in NEVER.iter().chain(own.lacks) {
        if text.contains(part) {
            return Err(Failed::new(format!(
                "{name}: `{}` must not be there",
                part.trim_end()
            )));
        }
    }
    let directory = profile_dir("charts");
    let file = directory.join(format!("{}-{}.yaml", own.chart, own.values));
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&file, text))
        .map_err(|error| Failed::new(format!("cannot write {}: {error}", file.display())))?;
    Ok(file)
}

fn refuse(helm: &str, own: &Refused) -> Result<(), Failed> {
    let step = template(helm, own.chart, own.values).args(["--set", own.set]);
    let (is_rendered, said) = step.outcome()?;
    if !is_rendered && said.contains(own.says) {
        return Ok(());
    }
    if !is_rendered {
        eprint!("{said}");
    }
    Err(Failed::new(format!(
        "{}: --set {} must be refused with `{}`",
        own.chart, own.set, own.says
    )))
}

/// Fails if a file of values is checked by no line above.
fn all_values_are_checked() -> Result<(), Failed> {
    let checked: BTreeSet<PathBuf> = RENDERED
        .iter()
        .map(|own| root().join(values(own.chart, own.values)))
        .collect();
    for chart in files_in(&root().join(CHARTS))? {
        for file in files_in(&chart.join("ci"))? {
            if !checked.contains(&file) {
                let file = file.display();
                return Err(Failed::new(format!("{file} is not in charts::RENDERED")));
            }
        }
    }
    Ok(())
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>, Failed> {
    let entries = fs::read_dir(directory).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    });
    entries.map_err(|error| Failed::new(format!("cannot read {}: {error}", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_charts_are_all_checked() {
        all_values_are_checked().unwrap();
    }

    #[test]
    fn charts_have_the_version_of_the_workspace() {
        let version = env!("CARGO_PKG_VERSION");
        for chart in files_in(&root().join(CHARTS)).unwrap() {
            let text = fs::read_to_string(chart.join("Chart.yaml")).unwrap();
            for line in [
                format!("version: {version}\n"),
                format!("appVersion: \"{version}\"\n"),
            ] {
                assert!(text.contains(&line), "{}: {line}", chart.display());
            }
        }
    }
}
