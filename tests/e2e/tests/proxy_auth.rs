//! Authentication at proxies by NTLM and Negotiate: a real squid, with the NTLM server of Samba and a real KDC.

use serde_json::Value;
use support::setup::{Bridge, BridgeSetup, Endpoint};
use support::{
    ApiKey, Ask, Kdc, LONG_TIMEOUT, RawTarget, Squid, SquidLogin, TestEnv, eventually, ports,
};

const NTLM: SquidLogin<'_> = SquidLogin::Ntlm("me", "sesame");
const BASIC: SquidLogin<'_> = SquidLogin::Basic("me", "sesame");

/// A relay whose first bridge has no endpoint, and a bridge that reaches relay and target through a proxy.
struct Site {
    env: TestEnv,
    key: ApiKey,
}

impl Site {
    async fn start() -> Self {
        let env = TestEnv::bare().start().await;
        let key = env.relay.create_key(env.tenant(), "bridge").await;
        Self { env, key }
    }

    /// Writes a bridge with the endpoint `t`, and the same proxy for both routes.
    fn bridge(
        &self,
        name: &str,
        proxy: &str,
        auth: &str,
        change: impl FnOnce(BridgeSetup) -> BridgeSetup,
    ) -> Bridge {
        let proxy = format!("http://{proxy}");
        let setup = BridgeSetup::new(name)
            .endpoint(Endpoint::new("t", self.env.target.url("/")))
            .set("targets.health_interval", "off");
        let setup = ["relay", "targets"]
            .into_iter()
            .fold(setup, |setup, route| {
                setup
                    .set(&format!("{route}.proxy"), &*proxy)
                    .set(&format!("{route}.proxy_auth"), auth)
            });
        Bridge::write(&self.env.relay, change(setup), self.env.dir())
    }

    /// Stores user and password of the proxy.
    async fn store(&self, bridge: &Bridge, user: &str, password: &str) {
        let secret = self.env.dir().join("proxy-secret");
        std::fs::write(&secret, password).unwrap();
        let set = ["credential", "set", "proxy", "--user", user];
        let more = ["--origin", "http://localhost:3128", "--secret-file"];
        let file = [secret.to_str().unwrap()];
        let args = [&set[..], &more, &file].concat();
        bridge.cli(&args).await.success();
    }

    async fn until_works(&self) {
        eventually(LONG_TIMEOUT, "an exchange through the proxy", async || {
            let ask = Ask::get("/v1/endpoints/t/small").key(&self.env.caller);
            self.env.relay.internal().send(ask).await.status.as_u16() == 200
        })
        .await;
    }
}

/// Names the credential on both routes.
fn with_credential(setup: BridgeSetup) -> BridgeSetup {
    setup
        .set("relay.proxy_credential", "proxy")
        .set("targets.proxy_credential", "proxy")
}

/// Tells where the KDC is.
fn with_kdc(setup: BridgeSetup, kdc: &Kdc) -> BridgeSetup {
    setup.set("kerberos.kdc", vec![kdc.authority()])
}

/// What `doctor` found out about the proxy.
async fn proxy_found(bridge: &Bridge) -> String {
    let report = bridge.doctor().await;
    let checks = report["checks"].as_array().unwrap();
    let proxy = checks.iter().find(|check| check["hop"] == "proxy");
    let found = proxy.and_then(|check| check["found"].as_str().map(str::to_owned));
    found.unwrap_or_else(|| panic!("{report:#}"))
}

#[tokio::test]
async fn ntlm_leads_to_relay_and_target() {
    let site = Site::start().await;
    let mut squid = Squid::start_with_logins(&[NTLM]).await;
    let mut bridge = site.bridge("ntlm", &squid.authority(), "auto", with_credential);
    site.store(&bridge, "CORP\\me", "wrong").await;
    let output = bridge.try_pair(&site.key).await.failure();
    assert!(
        output.contains("407") && output.contains("does not accept the user"),
        "{output}"
    );
    assert!(!output.contains("wrong"), "{output}");

    site.store(&bridge, "CORP\\me", "sesame").await;
    bridge.pair(&site.key).await;
    bridge.start();
    site.until_works().await;
    let found = proxy_found(&bridge).await;
    assert!(
        found.contains("by NTLM") && found.contains("it offered NTLM"),
        "{found}"
    );
    // The proxy forgets its connections.
    squid.restart().await;
    site.until_works().await;
}

#[tokio::test]
async fn negotiate_takes_password_keytab_or_cache() {
    let site = Site::start().await;
    let kdc = Kdc::start().await;
    kdc.add_user("me", "sesame");
    let squid = Squid::start_with_logins(&[SquidLogin::Negotiate(&kdc)]).await;
    let proxy = squid.named_authority();

    let keytab = kdc.keytab("machine");
    let by_keytab = site.bridge("keytab", &proxy, "negotiate", |setup| {
        with_kdc(setup, &kdc).set("kerberos.keytab_file", keytab.to_str().unwrap())
    });
    by_keytab.pair(&site.key).await;
    let found = proxy_found(&by_keytab).await;
    assert!(found.contains("by Negotiate"), "{found}");

    let cache = kdc.cache("machine");
    let by_cache = site.bridge("cache", &proxy, "auto", |setup| {
        with_kdc(setup, &kdc).set("kerberos.cache_file", cache.to_str().unwrap())
    });
    by_cache.pair(&site.key).await;

    let mut bridge = site.bridge("password", &proxy, "auto", |setup| {
        with_kdc(with_credential(setup), &kdc)
    });
    site.store(&bridge, "me@TEST.EXAMPLE", "wrong").await;
    let output = bridge.try_pair(&site.key).await.failure();
    assert!(output.contains("does not accept the password"), "{output}");
    site.store(&bridge, "me@TEST.EXAMPLE", "sesame").await;
    bridge.pair(&site.key).await;
    bridge.start();
    site.until_works().await;
    // Without the KDC, the ticket is still there.
    kdc.stop().await;
    site.until_works().await;
}

#[tokio::test]
async fn strongest_scheme_of_a_proxy_is_used() {
    let site = Site::start().await;
    let kdc = Kdc::start_like_active_directory().await;
    kdc.add_user("me", "sesame");
    let logins = [BASIC, NTLM, SquidLogin::Negotiate(&kdc)];
    let squid = Squid::start_with_logins(&logins).await;
    for (name, user, auth, scheme) in [
        ("best", "me@TEST.EXAMPLE", "auto", "by Negotiate"),
        ("second", "CORP\\me", "auto", "by NTLM"),
        ("chosen", "me", "ntlm", "by NTLM"),
        ("plain", "me", "basic", "by Basic"),
    ] {
        let bridge = site.bridge(name, &squid.named_authority(), auth, |setup| {
            with_kdc(with_credential(setup), &kdc)
        });
        site.store(&bridge, user, "sesame").await;
        bridge.pair(&site.key).await;
        let found = proxy_found(&bridge).await;
        assert!(found.contains(scheme), "{name}: {found}");
    }
}

#[tokio::test]
async fn password_is_not_sent_to_a_proxy_with_basic_alone() {
    let site = Site::start().await;
    let answer = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let proxy = RawTarget::start(answer).await;
    let authority = proxy.addr().to_string();
    for (name, auth, user) in [
        ("a", "ntlm", "CORP\\me"),
        ("b", "negotiate", "me@TEST.EXAMPLE"),
    ] {
        let bridge = site.bridge(name, &authority, auth, with_credential);
        site.store(&bridge, user, "sesame").await;
        let output = bridge.try_pair(&site.key).await.failure();
        assert!(output.contains("it offers Basic"), "{output}");
    }
    for request in proxy.requests() {
        let request = String::from_utf8(request).unwrap();
        assert!(!request.contains("Proxy-Authorization"), "{request}");
    }
}

#[tokio::test]
async fn missing_kdc_and_wrong_schemes_are_explained() {
    let site = Site::start().await;
    let kdc = Kdc::start().await;
    kdc.add_user("me", "sesame");
    let squid = Squid::start_with_logins(&[SquidLogin::Negotiate(&kdc)]).await;
    let gone = format!("127.0.0.1:{}", ports::free());
    for (name, proxy, auth, user, server, words) in [
        (
            "gone",
            squid.named_authority(),
            "auto",
            "me@TEST.EXAMPLE",
            &gone,
            "kerberos.kdc",
        ),
        (
            "address",
            squid.authority(),
            "auto",
            "me@TEST.EXAMPLE",
            &kdc.authority(),
            "its address",
        ),
        (
            "form",
            squid.named_authority(),
            "auto",
            "CORP\\me",
            &gone,
            "it offers Negotiate",
        ),
        (
            "choice",
            squid.named_authority(),
            "negotiate",
            "CORP\\me",
            &gone,
            "name@REALM",
        ),
    ] {
        let bridge = site.bridge(name, &proxy, auth, |setup| {
            with_credential(setup).set("kerberos.kdc", vec![server.clone()])
        });
        site.store(&bridge, user, "sesame").await;
        let output = bridge.try_pair(&site.key).await.failure();
        assert!(output.contains(words), "{name}: {output}");
        assert!(!output.contains("sesame"), "{name}: {output}");
    }
}

#[tokio::test]
async fn http_target_needs_no_connect_with_ntlm() {
    let site = Site::start().await;
    let kdc = Kdc::start().await;
    kdc.add_user("me", "sesame");
    for (name, login, user) in [
        ("ntlm", NTLM, "CORP\\me"),
        ("krb", SquidLogin::Negotiate(&kdc), "me@TEST.EXAMPLE"),
        ("basic", BASIC, "me"),
    ] {
        let squid = Squid::start_strict_with_logins(&[login]).await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        let target = RawTarget::start(answer).await;
        let endpoint = format!("{name}-t");
        let setup = BridgeSetup::new(name)
            .endpoint(Endpoint::new(&endpoint, target.url("/base/")))
            .set(
                "targets.proxy",
                format!("http://{}", squid.named_authority()),
            )
            .set("targets.proxy_credential", "proxy")
            .set("targets.health_interval", "off");
        let setup = with_kdc(setup, &kdc);
        let mut bridge = Bridge::write(&site.env.relay, setup, site.env.dir());
        site.store(&bridge, user, "sesame").await;
        bridge.pair(&site.key).await;
        bridge.start();
        let path = format!("/v1/endpoints/{endpoint}/x");
        eventually(LONG_TIMEOUT, "a response", async || {
            let ask = Ask::get(&*path).key(&site.env.caller);
            site.env.relay.internal().send(ask).await.status.as_u16() == 200
        })
        .await;
        for _ in 0..3 {
            let ask = Ask::post(&*path).key(&site.env.caller).body("some bytes");
            let answer = site.env.relay.internal().send(ask).await;
            assert_eq!(answer.expect_status(200).text(), "hi", "{name}");
        }
        // The requests of the login stay with the proxy, and so do its fields.
        for request in target.requests() {
            let request = String::from_utf8(request).unwrap();
            let first = request.lines().next().unwrap();
            assert!(
                ["GET /base/x HTTP/1.1", "POST /base/x HTTP/1.1"].contains(&first),
                "{name}: {request}"
            );
            assert!(
                !request.to_lowercase().contains("proxy-authorization"),
                "{request}"
            );
        }
        bridge.kill9();
    }
}

#[tokio::test]
async fn unusable_keytab_is_found_by_the_check() {
    let site = Site::start().await;
    let file = site.env.dir().join("no-keytab");
    std::fs::write(&file, "hello").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let bridge = site.bridge("keytab", "localhost:3128", "negotiate", |setup| {
        setup.set("kerberos.keytab_file", file.to_str().unwrap())
    });
    let checked = bridge.cli(&["config", "check"]).await;
    let output = format!("{checked:?}");
    assert!(output.contains("is no keytab"), "{output}");
    let report: Value = bridge.doctor().await;
    let text = report.to_string();
    assert!(text.contains("is no keytab"), "{text}");
}
