//! The settings of an image, from the Dockerfile: an image of a release has the same as one that is built with it.
//!
//! Only what sets the image's config is read. Files of a stage are not: `oci` knows them.

use crate::step::Failed;
use serde_json::{Map, Value, json};

/// Nanoseconds, in which an image's config has times.
const SECOND: u64 = 1_000_000_000;

/// The settings of one stage.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) user: String,
    pub(super) entrypoint: Vec<String>,
    pub(super) volumes: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
    ports: Vec<String>,
    labels: Map<String, Value>,
    working_directory: String,
    stop_signal: String,
    health_check: Option<Value>,
}

impl Settings {
    /// Reads a stage, and the stages that it begins with.
    ///
    /// # Errors
    /// There is no such stage, or it has something that is not known here.
    pub(super) fn of_stage(dockerfile: &str, stage: &str) -> Result<Self, Failed> {
        let lines = joined_lines(dockerfile);
        let mut settings = Self::default();
        settings.read_stage(&lines, stage)?;
        if settings.user.is_empty() || settings.entrypoint.is_empty() {
            return Err(Failed::new(format!(
                "the Dockerfile's stage {stage} has no USER or no ENTRYPOINT"
            )));
        }
        Ok(settings)
    }

    fn read_stage(&mut self, lines: &[String], stage: &str) -> Result<(), Failed> {
        let begin = lines
            .iter()
            .position(|line| stage_of(line).is_some_and(|(_, name)| name == stage));
        let Some(begin) = begin else {
            return Err(Failed::new(format!("the Dockerfile has no stage {stage}")));
        };
        if let Some((base, _)) = stage_of(&lines[begin])
            && lines[..begin]
                .iter()
                .any(|line| stage_of(line).is_some_and(|(_, name)| name == base))
        {
            self.read_stage(&lines[..begin], base)?;
        }
        for line in &lines[begin + 1..] {
            if line.starts_with("FROM ") {
                break;
            }
            self.read_line(line)?;
        }
        Ok(())
    }

    fn read_line(&mut self, line: &str) -> Result<(), Failed> {
        let unknown = || Failed::new(format!("the Dockerfile has an unknown line: {line}"));
        let (instruction, rest) = line.split_once(' ').ok_or_else(unknown)?;
        let rest = rest.trim();
        match instruction {
            // Files, and how they are made.
            "COPY" | "RUN" | "ARG" | "ADD" => {}
            "USER" => rest.clone_into(&mut self.user),
            "WORKDIR" => rest.clone_into(&mut self.working_directory),
            "STOPSIGNAL" => rest.clone_into(&mut self.stop_signal),
            "ENTRYPOINT" => self.entrypoint = list(rest).ok_or_else(unknown)?,
            "CMD" => self.command = list(rest).ok_or_else(unknown)?,
            "VOLUME" => self
                .volumes
                .extend(list(rest).unwrap_or_else(|| words(rest))),
            "EXPOSE" => self.ports.extend(words(rest).iter().map(|port| {
                if port.contains('/') {
                    port.clone()
                } else {
                    format!("{port}/tcp")
                }
            })),
            "ENV" => {
                for (name, value) in pairs(rest).ok_or_else(unknown)? {
                    let start = format!("{name}=");
                    self.environment.retain(|set| !set.starts_with(&start));
                    self.environment.push(format!("{start}{value}"));
                }
            }
            "LABEL" => {
                for (name, value) in pairs(rest).ok_or_else(unknown)? {
                    self.labels.insert(name, Value::String(value));
                }
            }
            "HEALTHCHECK" => self.health_check = Some(health_check(rest).ok_or_else(unknown)?),
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// Returns them as the config of an image has them.
    pub(super) fn config(&self) -> Value {
        let keys = |names: &[String]| {
            let entries = names.iter().map(|name| (name.clone(), json!({})));
            Value::Object(entries.collect())
        };
        let mut config = json!({
            "User": self.user,
            "Entrypoint": self.entrypoint,
            "Env": self.environment,
            "Labels": self.labels,
        });
        let optional = [
            ("Cmd", json!(self.command), self.command.is_empty()),
            ("ExposedPorts", keys(&self.ports), self.ports.is_empty()),
            ("Volumes", keys(&self.volumes), self.volumes.is_empty()),
            (
                "WorkingDir",
                json!(self.working_directory),
                self.working_directory.is_empty(),
            ),
            (
                "StopSignal",
                json!(self.stop_signal),
                self.stop_signal.is_empty(),
            ),
            (
                "Healthcheck",
                json!(self.health_check),
                self.health_check.is_none(),
            ),
        ];
        for (name, value, is_absent) in optional {
            if !is_absent {
                config[name] = value;
            }
        }
        config
    }
}

/// Returns the lines without comments; a line that ends in a backslash continues on the next one.
fn joined_lines(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let (part, continues) = match line.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        if let Some(last) = lines.last_mut() {
            last.push_str(part);
        }
        if !continues {
            lines.push(String::new());
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// `FROM base AS name`: the base and the name.
fn stage_of(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("FROM ")?;
    let mut words = rest
        .split_whitespace()
        .filter(|word| !word.starts_with("--"));
    let base = words.next()?;
    let is_named = words.next()?.eq_ignore_ascii_case("as");
    words.next().filter(|_| is_named).map(|name| (base, name))
}

/// `["a", "b"]`. The form for a shell is refused: these images have no shell.
fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// `name=value other="longer value"`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        pairs.push((name.to_owned(), value.to_owned()));
        rest = after.trim_start();
    }
    Some(pairs)
}

/// `--interval=30s --timeout=5s CMD ["program", "status"]`.
fn health_check(text: &str) -> Option<Value> {
    let (options, command) = text.split_once("CMD ")?;
    let mut test = vec!["CMD".to_owned()];
    test.extend(list(command)?);
    let mut check = json!({ "Test": test });
    for option in options.split_whitespace() {
        let (name, value) = option.strip_prefix("--")?.split_once('=')?;
        let (name, value) = match name {
            "interval" => ("Interval", seconds(value)? * SECOND),
            "timeout" => ("Timeout", seconds(value)? * SECOND),
            "start-period" => ("StartPeriod", seconds(value)? * SECOND),
            "retries" => ("Retries", value.parse().ok()?),
            _ => return None,
        };
        check[name] = json!(value);
    }
    Some(check)
}

fn seconds(text: &str) -> Option<u64> {
    match text.strip_suffix('m') {
        Some(minutes) => Some(minutes.parse::<u64>().ok()? * 60),
        None => text.strip_suffix('s')?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::PROGRAMS;
    use super::*;
    use crate::step::root;

    const DOCKERFILE: &str = r#"
FROM compiler AS build
RUN cargo xtask dist

FROM scratch AS base
# The service's user.
USER 65532:65532

FROM base AS relay
EXPOSE 8443
ENTRYPOINT ["/usr/bin/relay"]

FROM base AS bridge
COPY --from=build /bridge /usr/bin/
ENV A=1 B="two words"
LABEL org.example.title="A bridge"
VOLUME /var/lib/bridge
HEALTHCHECK --interval=30s --timeout=5s --retries=3 \
    CMD ["/usr/bin/bridge", "status"]
ENTRYPOINT ["/usr/bin/bridge"]
CMD ["run"]
"#;

    #[test]
    fn stage_has_its_settings_and_those_of_its_base() {
        let settings = Settings::of_stage(DOCKERFILE, "bridge").unwrap();
        let expected = json!({
            "User": "65532:65532",
            "Entrypoint": ["/usr/bin/bridge"],
            "Cmd": ["run"],
            "Env": ["A=1", "B=two words"],
            "Labels": {"org.example.title": "A bridge"},
            "Volumes": {"/var/lib/bridge": {}},
            "Healthcheck": {
                "Test": ["CMD", "/usr/bin/bridge", "status"],
                "Interval": 30_000_000_000_u64, "Timeout": 5_000_000_000_u64, "Retries": 3,
            },
        });
        assert_eq!(settings.config(), expected);
    }

    #[test]
    fn unknown_instruction_is_reported() {
        let text = DOCKERFILE.replace("EXPOSE", "ONBUILD");
        let failed = Settings::of_stage(&text, "relay").unwrap_err();
        assert!(failed.to_string().contains("ONBUILD"), "{failed}");
        assert!(Settings::of_stage(DOCKERFILE, "other").is_err());
    }

    #[test]
    fn dockerfile_has_a_stage_for_each_program() {
        let text = std::fs::read_to_string(root().join(super::super::oci::DOCKERFILE)).unwrap();
        for program in &PROGRAMS {
            let settings = Settings::of_stage(&text, program.part).unwrap();
            assert!(
                settings.entrypoint[0].ends_with(program.name),
                "{settings:?}"
            );
        }
    }
}
