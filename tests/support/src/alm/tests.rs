//! Conversations with the simulation over HTTP.

mod data;
mod files;
mod signing_in;

use http::header::SET_COOKIE;

use super::Alm;
use crate::http::{Answer, Ask, Client, Origin};

/// A signed-in client, with a connection and cookies.
struct Signed {
    client: Client,
    cookies: String,
    xsrf: String,
}

impl Signed {
    async fn at(alm: &Alm) -> Self {
        Self::at_origin(&Origin::http(alm.addr()), "ann", "secret").await
    }

    async fn at_origin(origin: &Origin, user: &str, password: &str) -> Self {
        let mut client = origin.client().await.expect("it listens");
        let body = format!(
            "<alm-authentication><user>{user}</user><password>{password}</password></alm-authentication>"
        );
        let ask = Ask::post("/qcbin/authentication-point/alm-authenticate").body(body);
        let lwsso = crumbs(&client.send(ask).await.expect_status(200));
        let ask = Ask::post("/qcbin/rest/site-session").header("cookie", &lwsso);
        let session = crumbs(&client.send(ask).await.expect_status(201));
        let cookies = format!("{lwsso}; {session}");
        let token = cookies
            .split("; ")
            .find_map(|one| one.strip_prefix("XSRF-TOKEN="));
        Self {
            client,
            xsrf: token.expect("it was set").to_owned(),
            cookies,
        }
    }

    /// Sends, with the session and its token.
    async fn send(&mut self, ask: Ask) -> Answer {
        let token = self.xsrf.clone();
        self.send_bare(ask.header("x-xsrf-token", &token)).await
    }

    /// Sends, with the session alone.
    async fn send_bare(&mut self, ask: Ask) -> Answer {
        self.client.send(ask.header("cookie", &self.cookies)).await
    }

    async fn send_json(&mut self, ask: Ask) -> Answer {
        self.send(ask.header("accept", "application/json")).await
    }
}

/// The cookies that a response sets, as a client sends them back.
fn crumbs(answer: &Answer) -> String {
    let all = answer.headers.get_all(SET_COOKIE).iter();
    let all = all.map(|value| {
        let text = value.to_str().expect("visible ASCII");
        text.split(';').next().unwrap_or_default().to_owned()
    });
    all.collect::<Vec<_>>().join("; ")
}

/// One entity in JSON.
fn entity(fields: &[(&str, &str)]) -> serde_json::Value {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| serde_json::json!({ "Name": name, "values": [{ "value": value }] }))
        .collect();
    serde_json::json!({ "Fields": fields })
}

fn defect(name: &str) -> serde_json::Value {
    entity(&[
        ("name", name),
        ("severity", "2-Medium"),
        ("detected-by", "ann"),
        ("creation-time", "2026-01-01"),
    ])
}

/// A field of an entity in JSON.
fn field<'v>(entity: &'v serde_json::Value, name: &str) -> Option<&'v str> {
    let mut fields = entity["Fields"].as_array().expect("it has some").iter();
    let field = fields.find(|field| field["Name"] == name)?;
    field["values"][0]["value"].as_str()
}
