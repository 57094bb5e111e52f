//! Entities over HTTP: one, a page, many at once; locks and versions.

use std::time::Instant;

use http::Method;
use serde_json::json;

use super::{Alm, Signed, defect, entity, field};
use crate::http::{Ask, Origin};

const COLLECTION: &str = "application/json;type=collection";

fn bulk(method: Method, entities: &[serde_json::Value]) -> Ask {
    let body = json!({ "entities": entities }).to_string();
    Ask::new(method, Alm::path("defects"))
        .header("content-type", COLLECTION)
        .body(body)
}

#[tokio::test]
async fn defect_is_created_changed_and_deleted() {
    let alm = Alm::start("ann", "secret").await;
    alm.stop_clock(Some("2026-01-02 03:04:05"));
    let mut ann = Signed::at(&alm).await;
    let post = Ask::post(Alm::path("defects")).json(&defect("a"));
    let created = ann.send_json(post).await.expect_status(201);
    let location = created.header("location").expect("it is there").to_owned();
    assert!(location.ends_with("/defects/1"), "{location}");
    let created = created.json();
    assert_eq!(created["Type"], "defect");
    assert_eq!(field(&created, "status"), Some("New"));
    assert_eq!(
        field(&created, "last-modified"),
        Some("2026-01-02 03:04:05")
    );

    let change = entity(&[("status", "Open"), ("ver-stamp", "77")]);
    let put = Ask::new(Method::PUT, Alm::path("defects/1")).json(&change);
    let changed = ann.send_json(put).await.expect_status(200).json();
    assert_eq!(field(&changed, "status"), Some("Open"));
    assert_eq!(field(&changed, "name"), Some("a"));
    assert_eq!(field(&changed, "ver-stamp"), Some("2"));

    let delete = Ask::new(Method::DELETE, Alm::path("defects/1"));
    let gone = ann.send_json(delete).await.expect_status(200).json();
    assert_eq!(field(&gone, "id"), Some("1"));
    assert_eq!(alm.defects(), 0);
}

#[tokio::test]
async fn xml_is_read_and_written() {
    let alm = Alm::start("ann", "secret").await;
    let mut ann = Signed::at(&alm).await;
    let body = "<Entity Type=\"release\"><Fields><Field Name=\"name\"><Value>R &amp; D</Value></Field>\
                <Field Name=\"parent-id\"><Value>1</Value></Field>\
                <Field Name=\"start-date\"><Value>2026-01-01</Value></Field>\
                <Field Name=\"end-date\"><Value>2026-02-01</Value></Field></Fields></Entity>";
    let post = Ask::post(Alm::path("releases"))
        .header("content-type", "application/xml")
        .header("accept", "application/xml")
        .body(body);
    let created = ann.send(post).await.expect_status(201).text();
    assert!(created.contains("<Field Name=\"name\"><Value>R &amp; D</Value></Field>"));
    let list = Ask::get(Alm::path("releases?fields=id,name"));
    let list = ann.send(list).await.expect_status(200).text();
    assert!(list.contains("<Entities TotalResults=\"1\">"), "{list}");
    assert_eq!(alm.field("releases", 1, "name").as_deref(), Some("R & D"));
}

#[tokio::test]
async fn partly_failed_bulk_keeps_successes() {
    let alm = Alm::start("ann", "secret").await;
    let mut ann = Signed::at(&alm).await;
    let bad = entity(&[("name", "no severity")]);
    let some = bulk(Method::POST, &[defect("a"), bad.clone(), defect("b")]);
    let partial = ann.send_json(some).await.expect_status(409).json();
    assert_eq!(partial["Id"], "qccore.bulk-operation-failed");
    let entries = &partial["ExceptionProperties"][0]["BulkValue"]["BulkEntries"];
    let succeeded: Vec<_> = (0..3).map(|at| entries[at]["Succeeded"] == true).collect();
    assert_eq!(succeeded, [true, false, true]);
    assert_eq!(
        entries[1]["Exception"]["Id"],
        "qccore.required-field-missing"
    );
    assert_eq!(entries[2]["EntityId"], "2");
    assert_eq!(alm.defects(), 2);

    let none = bulk(Method::POST, &[bad.clone(), bad.clone()]);
    ann.send_json(none).await.expect_status(500);
    let update = entity(&[("id", "1"), ("status", "Open")]);
    let all = ann
        .send_json(bulk(Method::PUT, &[update]))
        .await
        .expect_status(200)
        .json();
    assert_eq!(all["TotalResults"], 1);
    assert_eq!(alm.defect_field(1, "status").as_deref(), Some("Open"));
    let delete = Ask::new(Method::DELETE, Alm::path("defects?ids-to-delete=1,2,77"));
    let xml = delete.header("accept", "application/xml");
    let partial = ann.send(xml).await.expect_status(409).text();
    assert!(
        partial.contains("<BulkEntry Successful=\"false\" EntityId=\"77\""),
        "{partial}"
    );
    assert_eq!(alm.defects(), 0);
}

#[tokio::test]
async fn committed_write_may_return_an_error() {
    let alm = Alm::start("ann", "secret").await;
    let mut ann = Signed::at(&alm).await;
    alm.commit_then_fail(1);
    let post = || Ask::post(Alm::path("defects")).json(&defect("a"));
    ann.send_json(post()).await.expect_status(500);
    assert_eq!(alm.defects(), 1);
    ann.send_json(post()).await.expect_status(201);
    assert_eq!(alm.ids_with("defects", "name", "a"), [1, 2]);
}

#[tokio::test]
async fn lock_ends_with_its_session() {
    let alm = Alm::start("ann", "secret").await;
    alm.seed_defects(1);
    let mut one = Signed::at(&alm).await;
    let mut other = Signed::at(&alm).await;
    let lock = |method| Ask::new(method, Alm::path("defects/1/lock"));
    let put = || Ask::new(Method::PUT, Alm::path("defects/1")).json(&entity(&[("status", "Open")]));
    one.send_json(lock(Method::POST)).await.expect_status(200);
    let mine = one.send_json(lock(Method::GET)).await.json();
    assert_eq!(mine["LockStatus"], "LOCKED_BY_ME");
    for ask in [lock(Method::POST), lock(Method::DELETE), put()] {
        let refused = other.send_json(ask).await.expect_status(403).json();
        assert_eq!(refused["Id"], "qccore.lock-failure");
    }
    one.send_json(put()).await.expect_status(200);
    let end = Ask::new(Method::DELETE, "/qcbin/rest/site-session");
    one.send(end).await.expect_status(200);
    other.send_json(put()).await.expect_status(200);
    let free = other.send_json(lock(Method::GET)).await.json();
    assert_eq!(free["LockStatus"], "UNLOCKED");
}

#[tokio::test]
async fn requirement_is_checked_out_and_in() {
    let alm = Alm::start("ann", "secret").await;
    alm.add_project(Alm::DOMAIN, Alm::PROJECT, true);
    alm.add_user("bob", "secret");
    let fields = [("name", "old"), ("parent-id", "0"), ("type-id", "3")];
    let id = alm.create("requirements", &fields);
    let path = |more: &str| Alm::path(&format!("requirements/{id}{more}"));
    let mut ann = Signed::at(&alm).await;
    let mut bob = Signed::at_origin(&Origin::http(alm.addr()), "bob", "secret").await;
    let put = || Ask::new(Method::PUT, path("")).json(&entity(&[("name", "new")]));
    let refused = ann.send_json(put()).await.expect_status(403).json();
    assert_eq!(refused["Id"], "qccore.check-out-failure");
    let out = Ask::post(path("/versions/check-out"));
    ann.send_json(out).await.expect_status(200);
    ann.send_json(put()).await.expect_status(200);
    let get = || Ask::get(path(""));
    let seen = bob.send_json(get()).await.json();
    assert_eq!(field(&seen, "name"), Some("old"));
    let comment = "<CheckInParameters><Comment>done</Comment></CheckInParameters>";
    let check_in = Ask::post(path("/versions/check-in"))
        .header("content-type", "application/xml")
        .body(comment);
    ann.send(check_in).await.expect_status(200);
    let seen = bob.send_json(get()).await.json();
    assert_eq!(field(&seen, "name"), Some("new"));
    assert_eq!(field(&seen, "vc-checkin-comments"), Some("done"));
}

#[tokio::test]
async fn required_fields_are_listed() {
    let alm = Alm::start("ann", "secret").await;
    let mut ann = Signed::at(&alm).await;
    let path = Alm::path("customization/entities/defect/fields?required=true");
    let fields = ann
        .send_json(Ask::get(path))
        .await
        .expect_status(200)
        .json();
    let fields = fields["Fields"]["Field"]
        .as_array()
        .expect("a list")
        .clone();
    let names: Vec<_> = fields.iter().map(|field| field["Name"].as_str()).collect();
    let wanted = ["name", "severity", "detected-by", "creation-time"].map(Some);
    assert_eq!(names, wanted);
}

#[tokio::test]
async fn page_of_2000_defects_is_fast() {
    let alm = Alm::start("ann", "secret").await;
    alm.seed_defects(20_000);
    let mut ann = Signed::at(&alm).await;
    for order in ["{id}", "{last-modified;id}"] {
        let begun = Instant::now();
        let query = format!(
            "defects?page-size=max&start-index=10001&order-by={order}&fields=id,last-modified,ver-stamp"
        );
        let page = ann
            .send_json(Ask::get(Alm::path(&query)))
            .await
            .expect_status(200)
            .json();
        assert_eq!(page["entities"].as_array().map(Vec::len), Some(2000));
        assert_eq!(page["TotalResults"], 20_000);
        assert_eq!(field(&page["entities"][0], "id"), Some("10001"));
        // Far more than it takes, as the machine may be busy.
        assert!(
            begun.elapsed().as_secs() < 5,
            "{order}: {:?}",
            begun.elapsed()
        );
    }
}
