//! Exchanges that one end aborts or stalls.

use super::site::{BOTH, FOREVER, H2Env, HTTP2_ALONE, ok};
use super::{ENDPOINT, KEY};
use bytes::Bytes;
use h2::Reason;
use std::time::Duration;
use support::h2_target::{BodyEnd, Ended, Head, Seen, Step};
use support::{TIMEOUT, let_time_pass, pattern};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The longest that a target may work for a caller that has left.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

fn all_left(seen: &[Seen]) -> bool {
    !seen.is_empty() && seen.iter().all(|seen| seen.ended == Ended::Left)
}

fn is_running(seen: &[Seen]) -> bool {
    let mut seen = seen.iter();
    seen.any(|seen| seen.ended == Ended::Running && seen.body_end == BodyEnd::Whole)
}

/// Lets the target respond late: before its head, and after the first piece.
fn slow(site: &H2Env) {
    let (head, piece) = (Head::new(200), b"first".to_vec());
    let late = [Step::ReadBody, Step::Pause(FOREVER)];
    site.target.answer("/late", late.to_vec());
    let endless = [
        Step::ReadBody,
        Step::Head(head),
        Step::Send(piece),
        Step::Pause(FOREVER),
        Step::End,
    ];
    site.target.answer("/endless", endless.to_vec());
}

#[tokio::test]
async fn cancelled_request_is_reset_at_the_target() {
    let site = H2Env::start(BOTH).await;
    slow(&site);
    let short = Duration::from_millis(1500);
    let parallel = [
        Step::ReadBody,
        Step::Pause(short),
        Step::Head(Head::new(200)),
        Step::Send(b"first".to_vec()),
        Step::Pause(short),
        Step::Send(b", second".to_vec()),
        Step::End,
    ];
    site.target.answer("/parallel", parallel.to_vec());

    // A concurrent exchange goes on.
    let (relay, ask) = (site.relay(), site.post("/parallel", "small"));
    let parallel = tokio::spawn(async move { relay.send(ask).await });
    site.target
        .wait_until("/parallel", TIMEOUT, is_running)
        .await;

    let (relay, ask) = (site.relay(), site.post("/late", "small"));
    let asking = tokio::spawn(async move { relay.try_send(ask).await.is_ok() });
    site.target.wait_until("/late", TIMEOUT, is_running).await;
    asking.abort();
    let noticed = site.target.wait_until("/late", NOTICED_WITHIN, all_left);
    assert_eq!(noticed.await.len(), 1);

    let mut reading = site.relay().open(site.get("/endless")).await;
    let first = tokio::time::timeout(TIMEOUT, reading.next()).await;
    assert_eq!(first.unwrap().unwrap().unwrap(), "first");
    drop(reading);
    let noticed = site.target.wait_until("/endless", NOTICED_WITHIN, all_left);
    assert_eq!(noticed.await.len(), 1);

    let answer = tokio::time::timeout(TIMEOUT, parallel).await;
    let answer = answer.unwrap().unwrap().expect_status(200);
    assert_eq!(answer.text(), "first, second");
}

#[tokio::test]
async fn http2_caller_hangup_reaches_the_target() {
    let site = H2Env::start(HTTP2_ALONE).await;
    let late = [Step::ReadBody, Step::Pause(FOREVER)];
    site.target.answer("/late", late.to_vec());
    let tcp = site.env.connect_from([127, 0, 0, 1].into()).await;
    let tls = site.env.tls(tcp, &["h2"]).await.unwrap();
    let (sender, connection) = h2::client::handshake(tls).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("https://localhost{ENDPOINT}/late"))
        .header(KEY, site.env.caller.basic())
        .body(())
        .unwrap();
    let mut sender = sender.ready().await.unwrap();
    let (_response, mut body) = sender.send_request(request, false).unwrap();
    body.send_data(Bytes::from("small"), true).unwrap();
    site.target.wait_until("/late", TIMEOUT, is_running).await;
    connection.abort();
    site.target
        .wait_until("/late", NOTICED_WITHIN, all_left)
        .await;
}

#[tokio::test]
async fn reset_response_is_never_complete() {
    let site = H2Env::start(BOTH).await;
    for reason in [
        Reason::NO_ERROR,
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::ENHANCE_YOUR_CALM,
    ] {
        for length in [None, Some("100000")] {
            let head = Head::new(200);
            let head = match length {
                Some(length) => head.field("content-length", length),
                None => head,
            };
            let steps = [
                Step::ReadBody,
                Step::Head(head),
                Step::Send(pattern::bytes(50_000).to_vec()),
                Step::Pause(Duration::from_millis(100)),
                Step::Reset(reason),
            ];
            site.target.answer("/reset", steps.to_vec());
            let what = format!("{reason:?}, with the length {length:?}");
            for origin in [site.relay(), site.env.public.clone()] {
                let ask = site.get("/reset").within(TIMEOUT);
                let answer = origin.send(ask).await;
                let is_told = answer.status == 502;
                assert!(answer.body.is_err() || is_told, "{what} looks whole");
            }
        }
    }
}

#[tokio::test]
async fn aborted_upload_is_never_complete() {
    let site = H2Env::start(HTTP2_ALONE).await;
    site.target.answer("/upload", ok("done"));
    let key = site.env.caller.basic();
    let begin = async |framing: &str, piece: &str| {
        let mut caller = TcpStream::connect(site.relay().addr()).await.unwrap();
        let head = format!(
            "POST {ENDPOINT}/upload HTTP/1.1\r\nHost: x\r\n{KEY}: {key}\r\n{framing}\r\n\r\n{piece}"
        );
        caller.write_all(head.as_bytes()).await.unwrap();
        caller
    };
    for (framing, piece) in [
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n"),
        ("Content-Length: 100000", "hello"),
    ] {
        let caller = begin(framing, piece).await;
        let has_begun = |seen: &[Seen]| seen.iter().any(|seen| seen.body == b"hello");
        site.target.wait_until("/upload", TIMEOUT, has_begun).await;
        drop(caller);
        let is_cut = |seen: &[Seen]| {
            let mut seen = seen.iter();
            seen.all(|seen| {
                seen.ended == Ended::Left && matches!(seen.body_end, BodyEnd::BrokenOff(_))
            })
        };
        site.target
            .wait_until("/upload", NOTICED_WITHIN, is_cut)
            .await;
        assert_eq!(site.target.take("/upload").len(), 1, "{framing}");
    }
}

/// Its windows stay as they are: it takes 64 KiB of each body.
#[tokio::test]
async fn stalled_http2_target_delays_no_other_request() {
    const STUCK: usize = 3;
    const OTHERS: usize = 20;
    const BYTES: u64 = 5_000_000;
    let site = H2Env::start(BOTH).await;
    site.target.answer("/stuck", vec![Step::Pause(FOREVER)]);
    site.target.answer("/free", ok("done"));
    let mut uploads = JoinSet::new();
    for n in 0..STUCK {
        let ask = site.post("/stuck", "").within(FOREVER);
        let ask = match n {
            0 => ask.upload_chunked(BYTES),
            _ => ask.upload(BYTES),
        };
        let relay = site.relay();
        uploads.spawn(async move { relay.try_send(ask).await.is_ok() });
    }
    let have_come = |seen: &[Seen]| seen.len() == STUCK;
    site.target.wait_until("/stuck", TIMEOUT, have_come).await;
    let_time_pass(Duration::from_millis(500), "the uploads fill every window").await;

    let mut others = JoinSet::new();
    for n in 0..OTHERS {
        let ask = match n % 3 {
            0 => site.get("/free"),
            1 => site.post("/free", "small"),
            _ => site.post("/free", "").upload(200_000),
        };
        let (relay, ask) = (site.relay(), ask.within(Duration::from_secs(10)));
        others.spawn(async move {
            let answer = relay.send(ask).await;
            assert_eq!(answer.expect_status(200).text(), "done");
        });
    }
    let all = async {
        while let Some(one) = others.join_next().await {
            one.unwrap();
        }
    };
    tokio::time::timeout(TIMEOUT, all).await.unwrap();
    let seen = site.target.take("/free");
    assert_eq!(seen.len(), OTHERS);
    assert!(seen.iter().all(|seen| seen.body_end == BodyEnd::Whole));
    let is_held = |seen: &Seen| seen.ended == Ended::Running;
    assert!(site.target.take("/stuck").iter().all(is_held));
    assert!(uploads.try_join_next().is_none());
}
