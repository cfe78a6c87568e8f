//! Deliveries: who gets them, how they are signed, repeated and given up.

use chekt_operator::sandbox::Settings;
use reqwest::Method;
use serde_json::{Value, json};

use super::bench::{SECRET, bench, parsed, reply, settings, start, until};
use super::receiver::Receiver;

#[tokio::test]
async fn a_test_delivery_is_an_envelope_signed_over_the_bytes_that_arrive() {
    let bench = bench().await;
    let receiver = Receiver::start(&[]).await;
    let id = bench.made(&receiver.url, &["site.armed"]).await;
    bench.test(&id).await;
    bench.settled().await;
    let bodies = receiver.bodies(SECRET);
    assert_eq!(bodies.len(), 1);
    let start = format!(r#"{{"event":"webhook.test","webhook_id":"{id}","timestamp":""#);
    assert!(bodies[0].starts_with(&start), "{}", bodies[0]);
    let envelope = parsed(&bodies[0]);
    assert_eq!(envelope.as_object().unwrap().len(), 4);
    assert_eq!(envelope["data"]["message"], "This is a test webhook");
    let deliveries = bench.ledger("delivery").await;
    assert_eq!(deliveries[0]["body"], bodies[0]);
    assert_eq!(deliveries[0]["status"], 200);
    assert_eq!(deliveries[0]["attempt"], 1);
}

#[tokio::test]
async fn every_event_of_the_catalogue_reaches_its_subscribers_and_nobody_else() {
    let bench = bench().await;
    let all = [
        "alarm.triggered",
        "alarm.cleared",
        "alarm.acknowledged",
        "device.status_changed",
        "device.registered",
        "device.removed",
        "site.armed",
        "site.disarmed",
        "site.created",
    ];
    let (everything, one) = (Receiver::start(&[]).await, Receiver::start(&[]).await);
    bench.made(&everything.url, &all).await;
    bench.made(&one.url, &["site.created"]).await;
    for event in all {
        bench.emit(event).await;
    }
    bench.settled().await;
    let mut got: Vec<String> = everything
        .bodies(SECRET)
        .iter()
        .map(|body| {
            let body = parsed(body);
            assert!(!body["data"].as_object().unwrap().is_empty());
            body["event"].as_str().unwrap().to_owned()
        })
        .collect();
    got.sort_unstable();
    let mut expected = all.to_vec();
    expected.sort_unstable();
    assert_eq!(got, expected);
    assert_eq!(one.count(), 1);
}

#[tokio::test]
async fn an_event_is_told_as_it_was_given() {
    let bench = bench().await;
    let (here, there) = (Receiver::start(&[]).await, Receiver::start(&[]).await);
    let id = bench.made(&here.url, &["site.armed"]).await;
    bench.made(&there.url, &["site.armed"]).await;
    let emission = json!({
        "event": "door.opened", "data": {"door": "Tür 🚪"}, "webhook_id": id,
        "timestamp": "2024-01-15T14:20:00Z",
    });
    bench.control(Method::POST, "emit", emission).await;
    bench.settled().await;
    assert_eq!(
        here.bodies(SECRET),
        [format!(
            r#"{{"event":"door.opened","webhook_id":"{id}","timestamp":"2024-01-15T14:20:00Z","data":{{"door":"Tür 🚪"}}}}"#
        )]
    );
    assert_eq!(there.count(), 0);
    let unknown = reply(
        bench
            .request(Method::POST, "/sandbox/emit")
            .json(&json!({"event": "site.armed", "webhook_id": "nobody"})),
    );
    assert_eq!(unknown.await.status, 404);
}

#[tokio::test]
async fn raw_bytes_are_delivered_as_they_are_and_as_often_as_asked() {
    let bench = bench().await;
    let receiver = Receiver::start(&[]).await;
    let id = bench.made(&receiver.url, &["site.armed"]).await;
    for body in [" {\"event\" :\t1.0}\n", "no JSON, ü", ""] {
        let order = json!({"webhook_id": id, "body": body, "copies": 2});
        let reply = bench.control(Method::POST, "deliver", order).await;
        assert_eq!(reply.status, 202);
        assert_eq!(reply.body["deliveries"].as_array().unwrap().len(), 2);
    }
    bench.settled().await;
    let bodies = receiver.bodies(SECRET);
    assert_eq!(bodies.len(), 6);
    for body in [" {\"event\" :\t1.0}\n", "no JSON, ü", ""] {
        assert_eq!(bodies.iter().filter(|got| *got == body).count(), 2);
    }
}

#[tokio::test]
async fn a_refused_delivery_is_repeated_byte_for_byte_until_it_gets_200() {
    let bench = bench().await;
    let receiver = Receiver::start(&[500, 204]).await;
    bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.emit("alarm.triggered").await;
    let ended = bench.settled().await;
    assert_eq!(ended[0]["state"], "delivered");
    let bodies = receiver.bodies(SECRET);
    assert_eq!(bodies.len(), 3);
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    let attempts: Vec<_> = bench
        .ledger("delivery")
        .await
        .iter()
        .map(|line| (line["attempt"].clone(), line["status"].clone()))
        .collect();
    assert_eq!(
        attempts,
        [(1, 500), (2, 204), (3, 200)].map(|(attempt, status)| (json!(attempt), json!(status)))
    );
    let webhook = bench.webhook().await;
    assert_eq!(
        (&webhook["status"], &webhook["failures"]),
        (&json!("active"), &json!(0))
    );
}

#[tokio::test]
async fn the_pauses_between_attempts_are_those_of_the_guide_times_the_scale() {
    let bench = bench().await;
    bench.quirks(json!({"disables_after": 0})).await;
    let receiver = Receiver::start(&[500, 500, 500, 500]).await;
    bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.emit("alarm.triggered").await;
    let ended = bench.settled().await;
    assert_eq!(ended[0]["state"], "failed");
    let times: Vec<f64> = ended[0]["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| {
            let at: k8s_openapi::jiff::Timestamp = attempt["at"].as_str().unwrap().parse().unwrap();
            at.as_duration().as_secs_f64() * 1000.0
        })
        .collect();
    assert_eq!(times.len(), 4);
    // 5 s, 30 s and 5 min, times 0.002. Nothing bounds how late a busy machine is, so only the lower bound holds.
    for (pair, pause) in times.windows(2).zip([10.0, 60.0, 600.0]) {
        assert!(pair[1] - pair[0] >= pause, "{times:?}");
    }
}

#[tokio::test]
async fn the_third_failure_in_a_row_disables_and_a_patch_of_status_brings_it_back() {
    let bench = bench().await;
    let receiver = Receiver::start(&[500, 201, 307]).await;
    let id = bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.emit("alarm.triggered").await;
    let ended = bench.settled().await;
    assert_eq!(ended[0]["state"], "failed");
    assert_eq!(bench.list().await.body[0]["status"], "disabled");
    assert_eq!(bench.ledger("disabled").await[0]["webhook_id"], id);
    // No redirect was followed, and no fourth attempt made.
    assert_eq!(receiver.count(), 3);

    // What would have been sent while it is off is lost, and written down.
    assert!(bench.emit("alarm.triggered").await.is_empty());
    assert_eq!(bench.test(&id).await.status, 202);
    let dropped: Vec<Value> = bench.ledger("dropped").await;
    let events: Vec<_> = dropped.iter().map(|line| line["event"].clone()).collect();
    assert_eq!(
        events,
        ["alarm.triggered", "alarm.triggered", "webhook.test"]
    );
    assert_eq!(receiver.count(), 3);

    let patched = bench.patch(&id, json!({"status": "active"})).await;
    assert_eq!(patched.body["status"], "active");
    assert_eq!(bench.webhook().await["failures"], 0);
    bench.emit("alarm.triggered").await;
    bench.settled().await;
    assert_eq!(receiver.count(), 4);
}

#[tokio::test]
async fn failed_tests_do_not_disable() {
    let bench = bench().await;
    bench.quirks(json!({"disables_after": 1})).await;
    let receiver = Receiver::start(&[500; 4]).await;
    let id = bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.test(&id).await;
    bench.settled().await;
    assert_eq!(receiver.count(), 4);
    assert_eq!(bench.webhook().await["status"], "active");
}

#[tokio::test]
async fn an_answer_that_takes_longer_than_5_s_is_none_whatever_the_scale() {
    let bench = bench().await;
    let receiver = Receiver::start(&[0]).await;
    bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.emit("alarm.triggered").await;
    bench.settled().await;
    let first = &bench.ledger("delivery").await[0];
    assert!(
        first["error"].as_str().unwrap().starts_with("timeout"),
        "{first}"
    );
    let took = first["duration_ms"].as_u64().unwrap();
    assert!((5000..8000).contains(&took), "{took} ms");
}

#[tokio::test]
async fn a_deleted_webhook_gets_nothing_more() {
    let bench = start(Settings {
        // The first retry is due in 100 s.
        time_scale: 20.0,
        ..settings()
    })
    .await;
    let receiver = Receiver::start(&[500]).await;
    let id = bench.made(&receiver.url, &["alarm.triggered"]).await;
    bench.emit("alarm.triggered").await;
    until("the first attempt", || async {
        (bench.ledger("delivery").await.len() == 1).then_some(())
    })
    .await;
    bench.delete(&id).await;
    let ended = bench.settled().await;
    assert_eq!(ended[0]["reason"], "webhook is deleted");
    assert!(bench.emit("alarm.triggered").await.is_empty());
    assert_eq!(receiver.count(), 1);
    assert_eq!(bench.read("webhooks").await, json!([]));
    assert_eq!(bench.read("webhooks?all=true").await[0]["deleted"], true);
    // Nor does it hold up the end.
    bench.stop().await;
}

#[tokio::test]
async fn a_hundred_webhooks_and_a_burst_of_events_are_no_trouble() {
    let bench = bench().await;
    let receiver = Receiver::start(&[]).await;
    for _ in 0..100 {
        bench.made(&receiver.url, &["site.armed"]).await;
    }
    for _ in 0..5 {
        assert_eq!(bench.emit("site.armed").await.len(), 100);
    }
    bench.settled().await;
    assert_eq!(receiver.count(), 500);
    receiver.answer(&[500]);
    bench.emit("site.armed").await;
    bench.settled().await;
    // One of them was refused once and repeated.
    assert_eq!(receiver.count(), 601);
}
