//! Signing in and out, sessions, tokens, and the shapes of errors.

use http::Method;
use serde_json::json;

use super::{Alm, Signed, crumbs, defect};
use crate::ca::ThrowawayCa;
use crate::http::{Ask, Origin};

const AUTHENTICATE: &str = "/qcbin/authentication-point/alm-authenticate";
const IS_AUTHENTICATED: &str = "/qcbin/rest/is-authenticated";

#[tokio::test]
async fn wrong_password_is_challenged() {
    let alm = Alm::start("ann", "secret").await;
    let origin = Origin::http(alm.addr());
    let ask = |password: &str| {
        let both = json!({"alm-authentication": {"user": "ann", "password": password}});
        Ask::post(AUTHENTICATE).json(&both)
    };
    let refused = origin.send(ask("wrong")).await.expect_status(401);
    assert_eq!(refused.header("www-authenticate"), Some("ALMAUTH"));
    let taken = origin.send(ask("secret")).await.expect_status(200);
    assert!(crumbs(&taken).starts_with("LWSSO_COOKIE_KEY="));
    assert_eq!(alm.sign_ins(), 2);
}

#[tokio::test]
async fn authentication_check_needs_no_session() {
    let alm = Alm::start("ann", "secret").await;
    let origin = Origin::http(alm.addr());
    let anonymous = origin
        .send(Ask::get(IS_AUTHENTICATED))
        .await
        .expect_status(401);
    let challenge = anonymous.header("www-authenticate").expect("it is there");
    assert!(
        challenge.starts_with("LWSSO realm=http://127.0.0.1:"),
        "{challenge}"
    );
    let mut ann = Signed::at(&alm).await;
    alm.expire();
    let known = ann
        .send(Ask::get(IS_AUTHENTICATED))
        .await
        .expect_status(200);
    assert!(known.text().contains("<Username>ann</Username>"));
    let json = ann.send_json(Ask::get(IS_AUTHENTICATED)).await;
    assert_eq!(json.status, 406);
    let newer = ann
        .send_json(Ask::get("/qcbin/v2/rest/is-authenticated"))
        .await;
    assert_eq!(newer.json()["AuthenticationInfo"]["Username"], "ann");
    let gone = ann
        .send_json(Ask::get(Alm::path("defects")))
        .await
        .expect_status(401);
    assert_eq!(gone.json()["Id"], "qccore.session-has-expired");
}

#[tokio::test]
async fn api_key_signs_in_in_one_step() {
    let alm = Alm::start("ann", "secret").await;
    alm.set_api_key("key", "s", "ann", true);
    alm.set_api_key("old", "s", "ann", false);
    let origin = Origin::http(alm.addr());
    let ask = |id: &str, secret: &str| {
        let both = json!({"clientId": id, "secret": secret});
        Ask::post("/qcbin/rest/oauth2/login").json(&both)
    };
    origin.send(ask("key", "wrong")).await.expect_status(401);
    origin.send(ask("old", "s")).await.expect_status(403);
    let cookies = crumbs(&origin.send(ask("key", "s")).await.expect_status(200));
    let list = Ask::get(Alm::path("defects")).header("cookie", &cookies);
    origin.send(list).await.expect_status(200);
}

#[tokio::test]
async fn write_needs_the_xsrf_token() {
    let alm = Alm::start("ann", "secret").await;
    let mut ann = Signed::at(&alm).await;
    let ask = || {
        let ask = Ask::post(Alm::path("defects")).json(&defect("a"));
        ask.header("accept", "application/json")
    };
    let refused = ann.send_bare(ask()).await.expect_status(401).json();
    assert_eq!(refused["Id"], "qccore.general-error");
    let forged = ask().header("x-xsrf-token", "forged");
    ann.send_bare(forged).await.expect_status(401);
    assert_eq!(alm.defects(), 0);
    ann.send(ask()).await.expect_status(201);
    let list = Ask::get(Alm::path("defects"));
    ann.send_bare(list).await.expect_status(200);
}

#[tokio::test]
async fn logged_out_cookies_are_rejected() {
    let alm = Alm::start("ann", "secret").await;
    let mut ann = Signed::at(&alm).await;
    let session = Ask::new(Method::DELETE, "/qcbin/rest/site-session");
    ann.send(session).await.expect_status(200);
    let log_out = Ask::post("/qcbin/authentication-point/logout");
    ann.send(log_out).await.expect_status(200);
    for path in [IS_AUTHENTICATED, "/qcbin/rest/domains"] {
        let answer = ann.send(Ask::get(path)).await.expect_status(500);
        assert!(answer.text().contains("TokenId is invalid"));
    }
    let by_get = Ask::get("/qcbin/authentication-point/logout");
    ann.send(by_get).await.expect_status(405);
}

#[tokio::test]
async fn error_formats_are_xml_json_or_html() {
    let alm = Alm::start("ann", "secret").await;
    let mut ann = Signed::at(&alm).await;
    let ask = || Ask::get(Alm::path("defects/77"));
    let json = ann.send_json(ask()).await.expect_status(404).json();
    assert_eq!(json["Id"], "qccore.entity-not-found");
    assert!(json["ExceptionProperties"].is_null());
    let xml = ann.send(ask().header("accept", "application/xml")).await;
    assert!(xml.text().contains("<Id>qccore.entity-not-found</Id>"));
    let page = ann.send(ask()).await.expect_status(404);
    assert!(page.text().starts_with("<!DOCTYPE html>"));
}

#[tokio::test]
async fn tls_and_other_paths_work() {
    let ca = ThrowawayCa::new();
    let alm = Alm::start_tls("ann", "secret", &ca).await;
    let origin = Origin::https(alm.addr(), "localhost", &ca);
    let mut ann = Signed::at_origin(&origin, "ann", "secret").await;
    let put = Ask::new(Method::PUT, "/qcbin/rest/defects/1").body("{\"n\":1}");
    let answer = ann.send(put).await.expect_status(200);
    assert!(crumbs(&answer).starts_with("LWSSO_COOKIE_KEY="));
    assert_eq!(answer.json()["body"], "{\"n\":1}");
    assert_eq!(answer.json()["path"], "/qcbin/rest/defects/1");
}
