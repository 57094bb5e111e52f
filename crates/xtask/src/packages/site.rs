//! What a bridge needs around it: the relay of the package, a target, and a caller, all in the machine.

use super::machine::Machine;
use super::service::Service;
use super::{RELAY, expect, expect_equal, joined};
use crate::step::Failed;
use std::thread;
use std::time::Duration;

/// The config of a bridge that the machine runs.
pub(super) const BRIDGE_CONFIG: &str = "/etc/integration-bridge/bridge.toml";

/// What the target responds.
const GREETING: &str = "hello from the target";

/// The target, which serves files and scripts. The slow script says that it has begun.
const TARGET: &str = r#"
mkdir -p /srv/www/cgi-bin
echo 'hello from the target' > /srv/www/index.html
cat > /srv/www/cgi-bin/slow <<'END'
#!/bin/sh
: > /run/slow-began
sleep 4
printf 'Content-Type: text/plain\r\n\r\nhello from the target\n'
END
chmod 755 /srv/www/cgi-bin/slow
systemd-run --quiet --unit test-target busybox httpd -f -p 127.0.0.1:8080 -h /srv/www
echo '127.0.0.1 relay.example.com' >> /etc/hosts
"#;

/// What a bridge may reach.
const RULE: &str = r#"
# Written by the administrator.
[[allow]]
host = "127.0.0.1"
ports = [8080]
methods = ["GET"]
"#;

/// A certificate by a CA of one's own, as in the guide.
const CERTIFICATE: [&str; 4] = [
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=Our CA' -keyout ca.key -out ca.pem",
    "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=relay.example.com' -keyout relay.key -out relay.csr",
    "echo 'subjectAltName=DNS:relay.example.com' > relay.ext",
    "openssl x509 -req -in relay.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -extfile relay.ext -out relay.crt",
];

/// The lines of the package's config that an operator must set are those in comments.
const RELAY_SETTINGS: &str = "\
install -m 644 relay.crt /etc/integration-relay/
install -m 600 -o integration-relay relay.key /etc/integration-relay/
sed -i -e 's/^#public = /public = /' -e 's/^#authorities = /authorities = /' -e 's/^#admin = /admin = /' \\
    -e 's/^#cert_file = /cert_file = /' -e 's/^#key_file = /key_file = /' /etc/integration-relay/relay.toml";

/// The first start of a relay, as in the guide.
const FIRST_START: [&str; 5] = [
    "export RELAY_CONFIG=/etc/integration-relay/relay.toml",
    "runuser -u integration-relay -- integration-relay config check",
    "runuser -u integration-relay -- integration-relay init",
    "runuser -u integration-relay -- integration-relay tenant create acme",
    "systemctl enable --now integration-relay",
];

/// Makes the key of a caller. The secret is on no command line, except that of `printf` in the shell itself.
const CALLER: &str = r#"
umask 077
integration-relay key create --tenant acme --role caller --json > caller.json
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" caller.json; }
printf 'user = "%s:%s"\ncacert = "/root/ca.pem"\n' "$(field client_id)" "$(field client_secret)" > curl.conf
rm caller.json
"#;

/// Every command for the relay's database.
const WITH_CONFIG: &str = "export RELAY_CONFIG=/etc/integration-relay/relay.toml; cd /root";

/// How long a call may be repeated until it succeeds: a bridge dials again after up to a few seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Relay, target and caller.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) machine: &'a Machine,
}

impl<'a> Site<'a> {
    /// Starts the target.
    pub(super) fn new(machine: &'a Machine) -> Result<Self, Failed> {
        machine.run(TARGET)?;
        Ok(Self { machine })
    }

    /// Sets up the installed relay, and starts it.
    pub(super) fn start_relay(&self) -> Result<(), Failed> {
        let relay = Service::new(self.machine, RELAY);
        let lines = CERTIFICATE.join("\n");
        self.machine
            .run(&format!("cd /root\n{lines}\n{RELAY_SETTINGS}"))?;
        let said = self.machine.run(&FIRST_START.join("\n"))?;
        // Not a terminal: the secret goes to a file of the relay's account.
        let file = "/var/lib/integration-relay/first-admin-key.txt";
        expect("the output of `init`", &said, file)?;
        let found = self
            .machine
            .run(&format!("stat -c '%a %U' {file}; rm {file}"))?;
        expect_equal(file, &found, "600 integration-relay")?;
        relay.expect_running()?;
        // The listener with its port below 1024 works without root.
        self.machine
            .run("curl --silent --show-error --fail --cacert /root/ca.pem https://relay.example.com/healthz")?;
        self.machine.run(&format!("{WITH_CONFIG}\n{CALLER}"))?;
        Ok(())
    }

    /// Makes the pairing file of a bridge, for a user.
    pub(super) fn make_pairing_file(&self, bridge: &str, user: &str) -> Result<(), Failed> {
        // The command of the guide. The relay's certificate does not contain the CA.
        self.machine.run(&format!(
            "{WITH_CONFIG}
             integration-relay key create --tenant acme --role bridge --bridge {bridge} --bundle {bridge}.json --ca-file ca.pem
             home=$(getent passwd {user} | cut -d: -f6)
             install -m 600 -o {user} {bridge}.json $home/pairing.json
             rm {bridge}.json"
        ))?;
        Ok(())
    }

    /// Pairs the bridge of the machine by a file, as the guide says, and allows the target.
    pub(super) fn pair(&self, bridge: &str) -> Result<(), Failed> {
        self.make_pairing_file(bridge, "root")?;
        let said = self.machine.run(&format!(
            "cd /root; integration-bridge pair --bundle pairing.json --config {BRIDGE_CONFIG}"
        ))?;
        expect(
            "the output of `pair`",
            &said,
            "paired with https://relay.example.com",
        )?;
        self.machine.run(&format!(
            "cat >> {BRIDGE_CONFIG} <<'END'\n{RULE}END\ntest ! -e /root/pairing.json"
        ))?;
        // Root has written the identity, and the service's account must be able to read it.
        let others = "find /var/lib/integration-bridge ! -user integration-bridge -o -perm /077";
        let others = self.machine.run(others)?;
        expect_equal("files that are not the service's alone", &others, "")
    }

    /// Returns the rule that allows the target.
    pub(super) fn rule(&self) -> &'static str {
        RULE
    }

    /// Sends a call through the tunnel.
    pub(super) fn call(&self, path: &str) -> Result<(), Failed> {
        let response = self.machine.run(&curl("", path))?;
        expect("the response of the call", &response, GREETING)
    }

    /// Sends calls until one succeeds.
    pub(super) fn eventually_call(&self) -> Result<(), Failed> {
        let script = curl("", "index.html");
        let waited = self
            .machine
            .eventually("a call succeeds", CALL_TIMEOUT, || {
                let (has_succeeded, response) = self.machine.outcome(&script)?;
                Ok(has_succeeded && response.contains(GREETING))
            });
        // The response says why it does not.
        waited.or_else(|_| self.call("index.html"))
    }

    /// Lets the relay store a call and deliver it, which the bridge writes into its journal.
    pub(super) fn deliver(&self) -> Result<(), Failed> {
        let stored = self
            .machine
            .run(&curl(", \"mode\": \"deliver\"", "index.html"))?;
        let id = stored.split('"').skip_while(|part| *part != "id").nth(2);
        let id = id.ok_or_else(|| Failed::new(format!("a stored call without an id: {stored}")))?;
        let show = format!(
            "curl --silent --show-error --config /root/curl.conf https://relay.example.com/v1/calls/{id}"
        );
        self.machine
            .eventually("a stored call is delivered", CALL_TIMEOUT, || {
                Ok(self.machine.run(&show)?.contains("succeeded"))
            })
    }

    /// Does something while the target works on a call, which must succeed.
    pub(super) fn during_a_call(
        &self,
        act: impl FnOnce() -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        self.machine.run("rm -f /run/slow-began")?;
        thread::scope(|threads| {
            let slow = threads.spawn(|| self.call("cgi-bin/slow"));
            let acted = self
                .machine
                .eventually("the target has the call", CALL_TIMEOUT, || {
                    Ok(self.machine.outcome("test -e /run/slow-began")?.0)
                })
                .and_then(|()| act());
            let called = slow.join();
            acted?;
            joined(called)
        })
    }

    /// Ends the registration of a bridge that was removed.
    pub(super) fn revoke(&self, bridge: &str) -> Result<(), Failed> {
        let command = format!("integration-relay bridge revoke --tenant acme {bridge}");
        self.machine
            .run(&format!("{WITH_CONFIG}\n{command}"))
            .map(drop)
    }
}

/// A call of the target, with further fields.
fn curl(fields: &str, path: &str) -> String {
    let url = format!("http://127.0.0.1:8080/{path}");
    format!(
        "curl --silent --show-error --fail-with-body --max-time 30 --config /root/curl.conf \
         --json '{{\"url\": \"{url}\", \"method\": \"GET\"{fields}}}' https://relay.example.com/v1/calls"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::root;

    #[test]
    fn commands_are_those_of_the_guide() {
        let guide = root().join("deploy/guide/installation.md");
        let guide = std::fs::read_to_string(guide).unwrap();
        for command in CERTIFICATE.iter().chain(&FIRST_START) {
            assert!(guide.contains(&format!("\n{command}\n")), "{command}");
        }
    }
}
