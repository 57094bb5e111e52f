//! ALM's REST API as a synchronizer uses it, through the relay's endpoint `alm`.
//!
//! Cookies and the token are kept here. A session that has expired is replaced once, however many
//! requests meet it, and each of them is sent again, as ALM did nothing with it. Every answer is
//! counted by its status, and none may be an error of the relay's own.

use hyper::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use support::http::Digest;
use support::{Alm, Answer, ApiKey, Ask, Client, Origin};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

/// What any one request may take on a loaded machine.
const WITHIN: Duration = Duration::from_secs(60);
/// How long a connection is kept unused; the relay closes one after 10 s.
const KEPT_FOR: Duration = Duration::from_secs(5);

const PAGE_SIZE: usize = 500;
/// What is read of each defect in a list.
const FIELDS: &str =
    "id,name,status,severity,owner,description,last-modified,ver-stamp,user-01,user-02";
/// The field that is written.
const MARK: &str = "user-01";

/// How a user signs in to ALM.
pub(crate) enum Login {
    /// In two steps: authentication, then a session.
    Password {
        user: &'static str,
        password: &'static str,
    },
    /// In one.
    ApiKey {
        client_id: &'static str,
        secret: &'static str,
    },
}

/// A user of ALM through the relay.
pub(crate) struct AlmClient {
    origin: Origin,
    key: ApiKey,
    login: Login,
    session: AsyncMutex<Session>,
    /// Connections that are free, and since when.
    kept: Mutex<Vec<(Instant, Client)>>,
    /// Answers by status.
    tally: Mutex<BTreeMap<u16, u32>>,
}

/// The fields of a defect that the tests read.
#[derive(Debug)]
pub(crate) struct Defect {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// What an update wrote.
    pub(crate) mark: Option<String>,
    /// How often it was written.
    pub(crate) version: u64,
}

/// What a sign-in gave.
#[derive(Clone, Default)]
struct Session {
    /// 0 before the first.
    number: u32,
    cookies: BTreeMap<String, String>,
}

impl AlmClient {
    /// Uses a key of the relay. No user is signed in yet.
    pub(crate) fn new(origin: &Origin, key: &ApiKey, login: Login) -> Self {
        Self {
            origin: origin.clone(),
            key: key.clone(),
            login,
            session: AsyncMutex::default(),
            kept: Mutex::default(),
            tally: Mutex::default(),
        }
    }

    pub(crate) async fn sign_in(&self) {
        self.sign_in_after(0).await;
    }

    pub(crate) async fn sign_out(&self) {
        let session = || Ask::new(Method::DELETE, at("/rest/site-session"));
        self.send(session).await.expect_status(200);
        let identity = || Ask::post(at("/authentication-point/logout"));
        self.send(identity).await.expect_status(200);
    }

    /// Returns all defects in the order of their ids, page by page. `more` are further parameters, each with its `&`.
    pub(crate) async fn list(&self, more: &str) -> Vec<Defect> {
        let mut all = Vec::new();
        loop {
            let start = all.len() + 1;
            let path = project(&format!(
                "defects?page-size={PAGE_SIZE}&start-index={start}&order-by=%7Bid%7D&fields={FIELDS}{more}"
            ));
            let page = self.send(|| Ask::get(path.clone())).await;
            let page = page.expect_status(200).json();
            let entities = page["entities"].as_array().unwrap();
            let total = &page["TotalResults"];
            assert!(entities.len() <= PAGE_SIZE, "{}", entities.len());
            all.extend(entities.iter().map(Defect::of));
            if *total == all.len() {
                return all;
            }
            assert!(!entities.is_empty(), "{} of {total} came", all.len());
        }
    }

    pub(crate) async fn read(&self, id: u64) -> Defect {
        let answer = self.send(|| Ask::get(defect(id))).await;
        Defect::of(&answer.expect_status(200).json())
    }

    pub(crate) async fn update(&self, id: u64, mark: &str) -> Answer {
        let change = entity(&[(MARK, mark)]);
        self.send(|| Ask::new(Method::PUT, defect(id)).json(&change))
            .await
    }

    /// Updates many in one request. Returns those that ALM refused, each with its reason; what it
    /// took of them stays.
    pub(crate) async fn update_many(&self, changes: &[(u64, String)]) -> Vec<(u64, String)> {
        let entities: Vec<Value> = changes
            .iter()
            .map(|(id, mark)| entity(&[("id", &id.to_string()), (MARK, mark)]))
            .collect();
        let body = json!({ "entities": entities }).to_string();
        let ask = || {
            Ask::new(Method::PUT, project("defects"))
                .header("content-type", "application/json;type=collection")
                .body(body.clone())
        };
        let answer = self.send(ask).await;
        if answer.status == 409 {
            return refused_in(&answer.json(), changes.len());
        }
        let written = answer.expect_status(200).json();
        assert_eq!(written["TotalResults"], changes.len());
        Vec::new()
    }

    pub(crate) async fn lock(&self, id: u64) {
        let ask = || Ask::post(format!("{}/lock", defect(id)));
        self.send(ask).await.expect_status(200);
    }

    pub(crate) async fn unlock(&self, id: u64) {
        let ask = || Ask::new(Method::DELETE, format!("{}/lock", defect(id)));
        self.send(ask).await.expect_status(200);
    }

    /// Attaches the first `bytes` bytes of the pattern, made while they are sent.
    pub(crate) async fn upload(&self, id: u64, name: &str, bytes: u64) {
        let ask = || {
            Ask::post(format!("{}/attachments", defect(id)))
                .header("content-type", "application/octet-stream")
                .header("slug", name)
                .upload(bytes)
        };
        let attachment = self.send(ask).await.expect_status(201).json();
        let size = field(&attachment, "file-size");
        assert_eq!(size, Some(bytes.to_string().as_str()));
    }

    /// Reads an attachment and keeps its hash alone.
    pub(crate) async fn download(&self, id: u64, name: &str) -> Digest {
        let session = self.session.lock().await.clone();
        let ask = Ask::get(format!("{}/attachments/{name}", defect(id)))
            .header("accept", "application/octet-stream")
            .key(&self.key)
            .within(WITHIN);
        let reading = self.origin.open(session.on(ask)).await;
        self.count(reading.status, &reading.headers);
        assert_eq!(reading.status, 200);
        let digest = timeout(WITHIN, reading.digest()).await;
        digest.expect("the attachment comes in time")
    }

    /// Answers so far, by status.
    pub(crate) fn tally(&self) -> BTreeMap<u16, u32> {
        self.tally.lock().unwrap().clone()
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        let tally = self.tally();
        tally.values().map(|count| u64::from(*count)).sum()
    }

    /// Sends with the session, and once more with a new one where it has expired.
    async fn send(&self, ask: impl Fn() -> Ask) -> Answer {
        let ask = || ask().header("accept", "application/json");
        let session = self.session.lock().await.clone();
        let answer = self.exchange(session.on(ask())).await;
        if !has_expired(&answer) {
            return answer;
        }
        let session = self.sign_in_after(session.number).await;
        self.exchange(session.on(ask())).await
    }

    /// Signs in, unless another task has done so since the session of this number.
    async fn sign_in_after(&self, number: u32) -> Session {
        let mut session = self.session.lock().await;
        if session.number == number {
            *session = self.new_session(number + 1).await;
        }
        session.clone()
    }

    async fn new_session(&self, number: u32) -> Session {
        let mut session = Session {
            number,
            cookies: BTreeMap::new(),
        };
        match self.login {
            Login::Password { user, password } => {
                let who = format!(
                    "<alm-authentication><user>{user}</user><password>{password}</password></alm-authentication>"
                );
                let ask = Ask::post(at("/authentication-point/alm-authenticate"))
                    .header("content-type", "application/xml")
                    .body(who);
                session.take(&self.exchange(ask).await.expect_status(200));
                let ask = session.on(Ask::post(at("/rest/site-session")));
                session.take(&self.exchange(ask).await.expect_status(201));
            }
            Login::ApiKey { client_id, secret } => {
                let who = json!({"clientId": client_id, "secret": secret});
                let ask = Ask::post(at("/rest/oauth2/login")).json(&who);
                session.take(&self.exchange(ask).await.expect_status(200));
            }
        }
        session
    }

    /// One request and its response, on a connection that is kept where there is one.
    async fn exchange(&self, ask: Ask) -> Answer {
        let ask = ask.key(&self.key).within(WITHIN);
        let mut connection = self.connection().await;
        let answer = connection.send(ask).await;
        self.count(answer.status, &answer.headers);
        let kept = (Instant::now(), connection);
        self.kept.lock().unwrap().push(kept);
        answer
    }

    async fn connection(&self) -> Client {
        let kept = self.kept.lock().unwrap().pop();
        if let Some((_, connection)) = kept.filter(|(since, _)| since.elapsed() < KEPT_FOR) {
            return connection;
        }
        let opened = timeout(WITHIN, self.origin.client()).await;
        opened.expect("in time").expect("the relay listens")
    }

    fn count(&self, status: StatusCode, headers: &HeaderMap) {
        let own = headers.get("bridge-error");
        assert!(own.is_none(), "{status} of the relay's own: {own:?}");
        let mut tally = self.tally.lock().unwrap();
        *tally.entry(status.as_u16()).or_default() += 1;
    }
}

impl Defect {
    fn of(entity: &Value) -> Self {
        let number = |name: &str| -> u64 { field(entity, name).unwrap().parse().unwrap() };
        Self {
            id: number("id"),
            name: field(entity, "name").unwrap().to_owned(),
            mark: field(entity, MARK).map(str::to_owned),
            version: number("ver-stamp"),
        }
    }
}

impl Session {
    /// Takes over the cookies that a response sets.
    fn take(&mut self, answer: &Answer) {
        for cookie in answer.headers.get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = cookie.split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
    }

    /// The request with the session's cookies, and its token in a field of its own.
    fn on(&self, ask: Ask) -> Ask {
        let cookies = self.cookies.iter();
        let cookies: Vec<String> = cookies
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let ask = ask.header("cookie", &cookies.join("; "));
        match self.cookies.get("XSRF-TOKEN") {
            Some(token) => ask.header("x-xsrf-token", token),
            None => ask,
        }
    }
}

fn has_expired(answer: &Answer) -> bool {
    answer.status == 401 && answer.json()["Id"] == "qccore.session-has-expired"
}

/// The entries of a bulk operation that failed in part: those that were refused, and why.
fn refused_in(document: &Value, count: usize) -> Vec<(u64, String)> {
    assert_eq!(document["Id"], "qccore.bulk-operation-failed");
    let entries = &document["ExceptionProperties"][0]["BulkValue"]["BulkEntries"];
    let entries = entries.as_array().unwrap();
    assert_eq!(entries.len(), count, "there is one for each");
    let refused = entries.iter().filter(|entry| entry["Succeeded"] != true);
    let refused = refused.map(|entry| {
        let id = entry["EntityId"].as_str().unwrap().parse().unwrap();
        let why = entry["Exception"]["Id"].as_str().unwrap();
        (id, why.to_owned())
    });
    refused.collect()
}

/// One entity in JSON.
fn entity(fields: &[(&str, &str)]) -> Value {
    let fields: Vec<Value> = fields
        .iter()
        .map(|(name, value)| json!({ "Name": name, "values": [{ "value": value }] }))
        .collect();
    json!({ "Fields": fields })
}

/// A field of an entity in JSON; nothing where it is empty.
fn field<'v>(entity: &'v Value, name: &str) -> Option<&'v str> {
    let mut fields = entity["Fields"].as_array().unwrap().iter();
    let field = fields.find(|field| field["Name"] == name)?;
    field["values"][0]["value"].as_str()
}

/// A path below ALM's base URL.
fn at(path: &str) -> String {
    format!("/v1/endpoints/alm{path}")
}

/// A path within the project.
fn project(path: &str) -> String {
    at(Alm::path(path).strip_prefix("/qcbin").unwrap())
}

fn defect(id: u64) -> String {
    project(&format!("defects/{id}"))
}
