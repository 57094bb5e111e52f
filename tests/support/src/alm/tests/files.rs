//! Attachments over HTTP.

use http::Method;

use super::{Alm, Signed, field};
use crate::http::Ask;
use crate::pattern;

const BYTES: u64 = 50 * 1024 * 1024;

#[tokio::test]
async fn large_file_round_trips() {
    let alm = Alm::start("ann", "secret").await;
    alm.seed_defects(1);
    let mut ann = Signed::at(&alm).await;
    let post = Ask::post(Alm::path("defects/1/attachments"))
        .header("content-type", "application/octet-stream")
        .header("slug", "large.bin")
        .upload(BYTES);
    let created = ann.send_json(post).await.expect_status(201).json();
    assert_eq!(field(&created, "file-size"), Some("52428800"));
    assert_eq!(field(&created, "ref-type"), Some("File"));
    let kept = alm.attachments("defects", 1);
    assert_eq!(
        (kept[0].bytes, &kept[0].sha256),
        (BYTES, &pattern::sha256(BYTES))
    );
    assert_eq!(alm.defect_field(1, "attachment").as_deref(), Some("Y"));
    for path in [
        "defects/1/attachments/large.bin",
        "defects/1/attachments/1?by-id=true",
    ] {
        let get = Ask::get(Alm::path(path)).header("accept", "application/octet-stream");
        let bytes = ann.send(get).await.expect_status(200);
        assert_eq!(bytes.header("content-length"), Some("52428800"));
        let body = bytes.body.expect("it came whole");
        assert!(body == pattern::bytes(50 * 1024 * 1024), "{path}");
    }
}

#[tokio::test]
async fn attachment_form_is_stored_and_deleted() {
    let alm = Alm::start("ann", "secret").await;
    alm.seed_defects(1);
    let mut ann = Signed::at(&alm).await;
    let part = |name: &str, content: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
    };
    let form = |parts: &[(&str, &str)]| {
        let body: String = parts
            .iter()
            .map(|(name, content)| part(name, content))
            .collect();
        Ask::post(Alm::path("defects/1/attachments"))
            .header("content-type", "multipart/form-data; boundary=b")
            .body(body + "--b--\r\n")
    };
    let first = [("filename", "a.txt"), ("description", "d"), ("file", "one")];
    ann.send_json(form(&first)).await.expect_status(201);
    let again = [("filename", "a.txt"), ("file", "two")];
    let second = ann.send_json(form(&again)).await.expect_status(201).json();
    assert_eq!(field(&second, "name"), Some("a_1.txt"));
    let replacing = [
        ("filename", "a.txt"),
        ("override-existing-attachment", "y"),
        ("file", "three"),
    ];
    let replaced = ann
        .send_json(form(&replacing))
        .await
        .expect_status(201)
        .json();
    assert_eq!(field(&replaced, "description"), Some("d"));
    let wrong_order = [("file", "x"), ("filename", "a.txt")];
    ann.send_json(form(&wrong_order)).await.expect_status(500);

    let list = Ask::get(Alm::path("defects/1/attachments"));
    let list = ann.send_json(list).await.expect_status(200).json();
    assert_eq!(list["TotalResults"], 2);
    assert_eq!(field(&list["entities"][0], "file-size"), Some("5"));
    let delete = Ask::new(Method::DELETE, Alm::path("defects/1/attachments/a.txt"));
    ann.send_json(delete).await.expect_status(200);
    let kept = alm.attachments("defects", 1);
    assert_eq!((kept.len(), kept[0].name.as_str()), (1, "a_1.txt"));
}
