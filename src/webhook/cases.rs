//! The plan's table of cases: a world that differs from a plain one in a few things, and the step that follows.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::health::{Act, Attempted};
use super::plan::{ASK_AGAIN, FRESH, TEST_AGAIN, plan};
use super::rehearsal;
use super::removal::DEFINITION_AGE;
use super::report::report;
use super::rotation::{self, Entropy};
use super::step::{Because, KeyringChange, Rest, Step, Why};
use super::world::{
    AccountView, Attempt, Definition, Loss, Memory, Proof, Refusal, RemovalView, RosterView, Test,
    Trouble, Unheeded, WantedSecret, World,
};
use crate::resources::account::OrphanReason;
use crate::resources::conditions;
use crate::resources::keyring::{
    Key, Keyring, Retired, SigningSecret, TestRequest, WebhookIdentity,
};
use crate::resources::reasons::Reason;
use crate::resources::remote::{RemoteWebhook, SETTLE};
use crate::resources::webhook::{
    AdoptionPolicy, ChektWebhookSpec, ChektWebhookStatus, Delay, DeletionPolicy, Deliveries,
    RecoveryPolicy, TestPolicy,
};

const URL: &str = "https://alarms.example/webhooks/security/front";

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn key(id: &str) -> Key {
    Key {
        id: id.to_owned(),
        secret: SigningSecret::new(format!("secret of {id}").into_bytes()).unwrap(),
    }
}

fn remote(id: &str) -> RemoteWebhook {
    RemoteWebhook {
        id: id.to_owned(),
        url: URL.to_owned(),
        events: vec!["alarm.triggered".to_owned(), "alarm.cleared".to_owned()],
        state: Some("active".to_owned()),
        created_at: None,
    }
}

/// A webhook nobody has done anything for yet, on a ready account that was just listed and is empty.
fn fresh() -> World {
    let spec = serde_json::json!({"events": ["alarm.cleared", "alarm.triggered"]});
    World {
        webhook: WebhookIdentity {
            namespace: "security".into(),
            name: "front".into(),
            uid: "u-1".into(),
        },
        generation: 1,
        spec: serde_json::from_value::<ChektWebhookSpec>(spec).unwrap(),
        deleting: false,
        finalizer: true,
        reconcile_requested: None,
        test_requested: None,
        rotate_requested: None,
        status: ChektWebhookStatus::default(),
        now: now(),
        url: URL.to_owned(),
        derived: true,
        received_here: true,
        account_name: "security/default".parse().unwrap(),
        account: AccountView::Ready,
        account_held: true,
        claimed_by: None,
        pin_claimed_by: None,
        secret: WantedSecret::Generated,
        keyring: None,
        recorded_id: None,
        roster: RosterView {
            age: Some(Duration::from_secs(1)),
            ..RosterView::default()
        },
        removal: RemovalView {
            definition: Definition::Stays,
            ..RemovalView::default()
        },
        memory: Memory {
            running_for: Duration::from_secs(3600),
            ..Memory::default()
        },
    }
}

/// A webhook that is made up to the point where only the POST is missing.
fn about_to_create() -> World {
    let mut world = fresh();
    let mut keyring = Keyring::empty(world.webhook.clone());
    keyring.current = Some(key("generated-1"));
    keyring.attempt = 1;
    world.keyring = Some(keyring);
    world.memory.attempt = Attempt::Open;
    world
}

/// A webhook that is all as written, tested and verified.
fn in_sync() -> World {
    let mut world = fresh();
    let mut keyring = Keyring::empty(world.webhook.clone());
    keyring.current = Some(key("generated-1"));
    keyring.attempt = 2;
    keyring.test = Some(TestRequest {
        key_id: "generated-1".into(),
        url: URL.into(),
        number: 2,
    });
    world.keyring = Some(keyring);
    world.recorded_id = Some("w1".into());
    world.roster.recorded = Some(remote("w1"));
    world.roster.by_url = vec![remote("w1")];
    world.memory.attempt = Attempt::Used;
    world.memory.asserted = Some("generated-1".into());
    world.memory.test = Test::Sent;
    world.status.webhook_id = Some("w1".into());
    world.status.deliveries = Some(Deliveries {
        last_test_at: Some(Time(now())),
        last_test_key: Some("generated-1".into()),
        last_test_number: Some(2),
        ..Deliveries::default()
    });
    world
}

/// A world in which the test delivery has not come back: what this process knows of its request, and for how long.
fn unproved(test: Test, asked: u64, requests: u32) -> World {
    with(in_sync(), |w| {
        w.status.deliveries = None;
        w.memory.test = test;
        w.memory.proof = Proof {
            asked: Duration::from_secs(asked),
            since: Duration::from_secs(asked),
            requests,
        };
    })
}

/// Does to the keyring what a step asks for, as the process does.
fn perform_keyring(world: &mut World, change: KeyringChange) {
    let entropy = Entropy {
        secret: [1; 32],
        id: [2; 6],
    };
    let keyring = rotation::apply(change, world, &entropy).unwrap();
    world.keyring = Some(keyring);
    world.memory.attempt = Attempt::Open;
    if rotation::notes_test(change, world) {
        world.memory.test = Test::Recorded;
    }
}

fn unheeded(patches: u32, generation: i64, ago: u64) -> Unheeded {
    Unheeded {
        patches,
        generation,
        ago: Duration::from_secs(ago),
    }
}

fn because(step: Step) -> Because {
    match step {
        Step::Rest(Rest { because, .. }) => because,
        other => panic!("not at rest: {other:?}"),
    }
}

fn reason(world: &World) -> Reason {
    match because(plan(world)) {
        Because::Lacking(reason, _) | Because::Stalled(reason, _) => reason,
        other => panic!("nothing is lacking: {other:?}"),
    }
}

fn with(mut world: World, change: impl FnOnce(&mut World)) -> World {
    change(&mut world);
    world
}

#[test]
fn a_webhook_is_made_in_this_order_finalizer_keyring_post_test() {
    let made = with(fresh(), |w| w.finalizer = false);
    assert_eq!(plan(&made), Step::AddFinalizer(Why::FinalizerFirst));
    let made = with(fresh(), |w| w.account_held = false);
    assert_eq!(plan(&made), Step::HoldAccount(Why::AccountFirst));
    let keyring = Step::Keyring(KeyringChange::First, Why::NoKey);
    assert_eq!(plan(&fresh()), keyring);
    let made = with(fresh(), |w| perform_keyring(w, KeyringChange::First));
    let key_id = made.keyring.as_ref().unwrap().current.clone().unwrap().id;
    let Step::Create(draft, Why::NoneThere) = plan(&made) else {
        panic!("no POST")
    };
    assert_eq!((draft.key_id, draft.url.as_str()), (key_id.clone(), URL));
    let made = with(made, |w| {
        w.recorded_id = Some("w1".into());
        w.roster.recorded = Some(remote("w1"));
        w.roster.by_url = vec![remote("w1")];
        w.memory.asserted = Some(key_id);
        w.memory.attempt = Attempt::Used;
    });
    assert_eq!(plan(&made), Step::Test("w1".into(), Why::TestNoted));
    // The id is on record before the test is asked for: two writes of the object, one of its keyring.
    let said = report(&made, &plan(&made));
    assert_eq!(said.webhook_id.as_deref(), Some("w1"));
    let asked = with(made, |w| w.memory.test = Test::Sent);
    assert_eq!(because(plan(&asked)), Because::InSync);
    assert_eq!(report(&asked, &plan(&asked)), said);
}

#[test]
fn a_quiet_webhook_has_nothing_to_do_and_nothing_to_wait_for() {
    assert_eq!(
        plan(&in_sync()),
        Step::Rest(Rest {
            because: Because::InSync,
            again: None
        })
    );
}

#[test]
fn an_order_or_a_spelling_is_no_drift() {
    let world = with(in_sync(), |w| {
        w.spec.events = vec!["alarm.triggered".into(), "alarm.cleared".into()];
        w.roster.recorded.as_mut().unwrap().url =
            "https://ALARMS.example:443/webhooks/security/front".into();
    });
    assert_eq!(because(plan(&world)), Because::InSync);
}

#[test]
fn drift_of_events_and_of_the_url_is_one_patch_of_just_those() {
    let world = with(in_sync(), |w| {
        w.spec.events = vec!["site.armed".into()];
        w.url = "https://alarms.example/new".into();
        w.memory.attempt = Attempt::Open;
    });
    let Step::Patch(id, change, _) = plan(&world) else {
        panic!("no patch")
    };
    assert_eq!(
        (id.as_str(), change.fields().as_str()),
        ("w1", "url, events")
    );
}

#[test]
fn every_remote_write_waits_for_a_number_that_no_answer_has_come_to() {
    let drifted = |attempt| {
        with(in_sync(), |w| {
            w.spec.events = vec!["site.armed".into()];
            w.memory.attempt = attempt;
        })
    };
    assert_eq!(
        plan(&drifted(Attempt::Used)),
        Step::Keyring(KeyringChange::Number, Why::NumberUsed)
    );
    assert_eq!(
        plan(&drifted(Attempt::Unknown)),
        Step::Keyring(KeyringChange::Number, Why::NumberUsed)
    );
    assert!(matches!(plan(&drifted(Attempt::Open)), Step::Patch(..)));
    let restarted = with(about_to_create(), |w| w.memory.attempt = Attempt::Unknown);
    assert_eq!(
        plan(&restarted),
        Step::Keyring(KeyringChange::Number, Why::NumberUsed)
    );
}

#[test]
fn nothing_is_created_on_a_list_that_is_missing_or_old() {
    assert!(matches!(
        plan(&with(about_to_create(), |w| w.roster.age = None)),
        Step::List(..)
    ));
    let old = with(about_to_create(), |w| {
        w.roster.age = Some(FRESH + Duration::from_millis(1));
    });
    assert!(matches!(plan(&old), Step::List(..)));
}

#[test]
fn a_lost_answer_is_resolved_by_a_list_that_is_young_enough_to_show_it() {
    let unclear = |ago: u64, age: u64| {
        with(about_to_create(), |w| {
            w.memory.unclear = Some(Duration::from_secs(ago));
            w.roster.age = Some(Duration::from_secs(age));
        })
    };
    assert_eq!(because(plan(&unclear(2, 1))), Because::Settling);
    assert!(matches!(plan(&unclear(7, 3)), Step::List(..)));
    assert!(matches!(plan(&unclear(7, 2)), Step::Create(..)));
    let landed = with(unclear(7, 2), |w| w.roster.by_url = vec![remote("w1")]);
    // It is there; which secret it has is not known, so that is said again.
    assert!(
        matches!(plan(&landed), Step::Patch(id, change, _) if id == "w1" && change.fields() == "secret")
    );
}

#[test]
fn after_a_restart_a_request_of_the_dead_process_has_time_to_land() {
    let restarted = |running: u64, age: u64| {
        with(about_to_create(), |w| {
            w.memory = Memory {
                running_for: Duration::from_secs(running),
                ..Memory::default()
            };
            w.roster.age = Some(Duration::from_secs(age));
        })
    };
    assert_eq!(because(plan(&restarted(2, 1))), Because::Settling);
    assert!(matches!(plan(&restarted(6, 4)), Step::List(..)));
    assert!(matches!(
        plan(&restarted(6, 1)),
        Step::Keyring(KeyringChange::Number, _)
    ));
}

#[test]
fn a_webhook_that_vanished_is_created_again_only_after_two_lists_without_it() {
    let vanished = |apart: u64, age: u64| {
        with(in_sync(), |w| {
            w.roster.recorded = None;
            w.roster.by_url = vec![];
            w.roster.absent_for = Duration::from_secs(apart);
            w.roster.age = Some(Duration::from_secs(age));
            w.memory.attempt = Attempt::Open;
        })
    };
    assert_eq!(because(plan(&vanished(0, 1))), Because::Settling);
    assert!(matches!(plan(&vanished(0, 6)), Step::List(..)));
    assert!(matches!(plan(&vanished(6, 0)), Step::Create(d, _) if d.key_id == "generated-1"));
}

#[test]
fn the_one_webhook_with_our_url_is_taken_over_with_a_secret_of_ours() {
    let found = with(about_to_create(), |w| {
        w.roster.by_url = vec![remote("stranger")];
    });
    let Step::Patch(id, change, _) = plan(&found) else {
        panic!("no patch")
    };
    assert_eq!(
        (id.as_str(), change.fields().as_str()),
        ("stranger", "secret")
    );
}

#[test]
fn what_is_refused_is_neither_taken_over_nor_put_on_record_nor_deleted() {
    let refused = with(fresh(), |w| {
        w.spec.adoption_policy = AdoptionPolicy::Refuse;
        w.roster.by_url = vec![remote("stranger")];
    });
    assert_eq!(reason(&refused), Reason::AdoptionRefused);
    let status = report(&refused, &plan(&refused));
    assert_eq!((status.webhook_id, status.state), (None, None));
    // It is looked for before there is a keyring: a number in one says that a webhook with this url may be ours.
    let unseen = with(refused.clone(), |w| w.roster = RosterView::default());
    assert!(matches!(plan(&unseen), Step::List(_, Why::NeverListed)));
    let mine = with(refused.clone(), |w| w.keyring = about_to_create().keyring);
    assert!(matches!(
        plan(&mine),
        Step::Keyring(KeyringChange::Number, _)
    ));
    assert_eq!(mine.target().map(|t| t.id.as_str()), Some("stranger"));
    let leaving = with(refused, |w| w.deleting = true);
    assert_eq!(plan(&leaving), Step::ReleaseFinalizer(Why::NeverSent));
    // One of its own went, and another is there: under a given url it is somebody's.
    let gone = |derived| {
        with(in_sync(), |w| {
            w.spec.adoption_policy = AdoptionPolicy::Refuse;
            w.derived = derived;
            w.roster.recorded = None;
            w.roster.by_url = vec![remote("other")];
        })
    };
    assert_eq!(reason(&gone(false)), Reason::AdoptionRefused);
    assert_eq!(gone(true).target().map(|t| t.id.as_str()), Some("other"));
}

#[test]
fn a_pinned_webhook_is_taken_over_whatever_its_url_and_nothing_is_made_in_its_place() {
    let pinned = with(about_to_create(), |w| {
        w.spec.webhook_id = Some("w7".into());
        w.spec.adoption_policy = AdoptionPolicy::Refuse;
        w.roster.by_url = vec![remote("stranger")];
        w.roster.pinned = Some(RemoteWebhook {
            url: "https://old.example/hook".into(),
            ..remote("w7")
        });
    });
    let Step::Patch(id, change, Why::TakesOverPinned) = plan(&pinned) else {
        panic!("not taken over")
    };
    assert_eq!(
        (id.as_str(), change.fields().as_str()),
        ("w7", "url, secret")
    );
    let missing = with(pinned.clone(), |w| w.roster.pinned = None);
    assert_eq!(reason(&missing), Reason::WebhookNotFound);
    let old = with(missing, |w| w.roster.age = Some(2 * FRESH));
    assert!(matches!(plan(&old), Step::List(_, Why::ListTooOld)));
    let claimed = with(pinned.clone(), |w| {
        w.pin_claimed_by = Some("another".into());
    });
    assert_eq!(reason(&claimed), Reason::WebhookClaimed);
    assert_eq!(claimed.target(), None);
    // Nothing of another's is deleted, nor what was never asked for.
    for (change, why) in [
        ((|w| w.keyring = None) as fn(&mut World), Why::NeverSent),
        (|w| w.roster.pinned = None, Why::NothingOfOurs),
    ] {
        let leaving = with(with(pinned.clone(), change), |w| w.deleting = true);
        assert_eq!(plan(&leaving).why(), why.text());
    }
    // Once one is on record, the pin has done its part: what vanished comes back.
    let vanished = with(in_sync(), |w| {
        w.spec.webhook_id = Some("w1".into());
        w.roster.recorded = None;
        w.roster.by_url = vec![];
        w.roster.absent_for = SETTLE;
        w.roster.age = Some(Duration::ZERO);
        w.memory.attempt = Attempt::Open;
    });
    assert!(matches!(plan(&vanished), Step::Create(..)));
}

#[test]
fn what_is_still_to_be_taken_over_is_not_on_record() {
    let found = with(about_to_create(), |w| {
        w.roster.by_url = vec![remote("stranger")];
        w.secret = WantedSecret::Unusable(Reason::SecretNotFound, "m".into());
    });
    assert_eq!(report(&found, &plan(&found)).webhook_id, None);
    // Nor is one that happens to be as written: it signs with somebody else's secret.
    let as_written = with(fresh(), |w| w.roster.by_url = vec![remote("stranger")]);
    let step = plan(&as_written);
    assert_eq!(step, Step::Keyring(KeyringChange::First, Why::NoKey));
    assert_eq!(report(&as_written, &step).webhook_id, None);
}

#[test]
fn a_test_delivery_that_a_person_asks_for_is_asked_for_once_whatever_the_policy() {
    let asked = with(in_sync(), |w| {
        w.spec.test_policy = TestPolicy::Never;
        w.test_requested = Some("now".into());
    });
    let note = Step::Keyring(KeyringChange::NoteTest, Why::TestRequested);
    assert_eq!(plan(&asked), note);
    let noted = with(asked, |w| perform_keyring(w, KeyringChange::NoteTest));
    assert_eq!(plan(&noted), Step::Test("w1".into(), Why::TestNoted));
    assert_eq!(report(&noted, &plan(&noted)).last_handled_test_at, None);
    let sent = with(noted.clone(), |w| w.memory.test = Test::Sent);
    assert_eq!(because(plan(&sent)), Because::InSync);
    let said = report(&sent, &plan(&sent));
    assert_eq!(said.last_handled_test_at.as_deref(), Some("now"));
    // A process that starts between the note and the request does not know whether it was sent: it is sent again, under
    // its number, and never a third time.
    let restarted = with(noted.clone(), |w| w.memory.test = Test::NotAsked);
    let Step::Rest(rest) = plan(&restarted) else {
        panic!("no rest")
    };
    assert_eq!(rest.again, Some(TEST_AGAIN));
    for test in [Test::NotAsked, Test::Unclear] {
        let waited = |requests| {
            with(restarted.clone(), |w| {
                w.memory.test = test.clone();
                w.memory.proof.asked = Duration::from_secs(300);
                w.memory.proof.requests = requests;
            })
        };
        let again = Step::Test("w1".into(), Why::TestUnclear);
        assert_eq!((plan(&waited(0)), plan(&waited(1))), (again.clone(), again));
        assert_eq!(because(plan(&waited(2))), Because::InSync);
    }
    // One that was refused for now is asked for again under another number.
    let denied = with(noted, |w| w.memory.test = Test::Denied);
    let again = Step::Keyring(KeyringChange::NoteTest, Why::TestNoted);
    assert_eq!(plan(&denied), again);
}

#[test]
fn a_new_secret_that_a_person_asks_for_is_made_once_and_only_where_the_operator_makes_it() {
    let asked = with(in_sync(), |w| w.rotate_requested = Some("now".into()));
    let next = Step::Keyring(KeyringChange::Next, Why::RotationRequested);
    assert_eq!(plan(&asked), next);
    let next = with(asked.clone(), |w| perform_keyring(w, KeyringChange::Next));
    assert!(matches!(plan(&next), Step::Patch(_, c, Why::NewKey) if c.fields() == "secret"));
    assert_eq!(report(&next, &plan(&next)).last_handled_rotate_at, None);
    let done = with(next, |w| {
        perform_keyring(w, KeyringChange::Promote);
        w.memory.asserted = Some("generated-020202020202".into());
        w.memory.test = Test::Sent;
    });
    assert_eq!(because(plan(&done)), Because::InSync);
    let said = report(&done, &plan(&done));
    assert_eq!(said.last_handled_rotate_at.as_deref(), Some("now"));
    let given = with(asked, |w| {
        let secret = SigningSecret::new(b"theirs".to_vec()).unwrap();
        w.secret = WantedSecret::Given(secret.clone());
        let id = "given-1".to_owned();
        w.keyring.as_mut().unwrap().current = Some(Key { id, secret });
    });
    assert!(!matches!(
        plan(&given),
        Step::Keyring(KeyringChange::Next, _)
    ));
}

#[test]
fn the_url_of_a_post_is_known_until_an_id_has_come_of_it() {
    let posted = with(fresh(), |w| perform_keyring(w, KeyringChange::First));
    let url = |w: &World| w.keyring.as_ref().unwrap().post_url.clone();
    assert_eq!(url(&posted).as_deref(), Some(URL));
    // The spec says another url before the outcome is known: what landed is taken over and moved.
    let edited = with(posted, |w| w.url = "https://alarms.example/new".into());
    let landed = with(edited.clone(), |w| w.roster.by_url = vec![remote("w1")]);
    let Step::Patch(id, change, Why::TakesOver) = plan(&landed) else {
        panic!("not taken over")
    };
    assert_eq!(
        (id.as_str(), change.fields().as_str()),
        ("w1", "url, secret")
    );
    // A new key does not lose sight of it.
    let next = with(edited.clone(), |w| perform_keyring(w, KeyringChange::Next));
    assert_eq!(url(&next).as_deref(), Some(URL));
    // If nothing came of it, the next POST first says its own.
    let number = Step::Keyring(KeyringChange::Number, Why::UrlChanged);
    assert_eq!(plan(&edited), number);
    let numbered = with(edited, |w| perform_keyring(w, KeyringChange::Number));
    assert!(matches!(plan(&numbered), Step::Create(d, _) if d.url == numbered.url));
    assert_eq!(
        url(&numbered).as_deref(),
        Some("https://alarms.example/new")
    );
    let done = with(in_sync(), |w| {
        w.keyring.as_mut().unwrap().post_url = Some(URL.into());
        perform_keyring(w, KeyringChange::Number);
    });
    assert_eq!(url(&done), None);
}

#[test]
fn a_keyring_that_was_lost_is_made_again_and_its_secret_given_to_chekt() {
    let lost = with(in_sync(), |w| w.keyring = None);
    assert_eq!(plan(&lost), Step::Keyring(KeyringChange::Next, Why::NoKey));
    let made = with(lost, |w| perform_keyring(w, KeyringChange::Next));
    assert!(matches!(plan(&made), Step::Patch(_, c, _) if c.fields() == "secret"));
}

#[test]
fn twins_under_a_derived_url_are_ours_and_under_a_given_one_nobodys() {
    let twins = with(in_sync(), |w| {
        w.roster.by_url = vec![remote("w0"), remote("w1")];
        w.memory.attempt = Attempt::Open;
    });
    assert!(matches!(plan(&twins), Step::Delete(id, _) if id == "w0"));
    let given = with(twins.clone(), |w| w.derived = false);
    assert_eq!(because(plan(&given)), Because::InSync);
    let unknown = with(given, |w| {
        w.recorded_id = None;
        w.roster.recorded = None;
    });
    assert_eq!(reason(&unknown), Reason::UrlAmbiguous);
}

type Lack = fn(&mut World);

#[test]
fn what_a_webhook_lacks_is_said_and_nothing_is_done() {
    let lacking: [(Lack, Reason); 3] = [
        (|w| w.claimed_by = Some("a/b".into()), Reason::UrlClaimed),
        (
            |w| w.account = AccountView::NotReady(Reason::AccountNotFound, "m".into()),
            Reason::AccountNotFound,
        ),
        (
            |w| w.secret = WantedSecret::Unusable(Reason::SecretNotFound, "m".into()),
            Reason::SecretNotFound,
        ),
    ];
    for (change, expected) in lacking {
        assert_eq!(reason(&with(in_sync(), change)), expected);
    }
    let suspended = with(fresh(), |w| {
        w.spec.suspend = true;
        w.finalizer = false;
        w.account = AccountView::NotReady(Reason::AccountNotFound, "m".to_owned());
    });
    assert_eq!(because(plan(&suspended)), Because::Suspended);
}

#[test]
fn what_another_webhook_keeps_is_neither_put_on_record_nor_deleted() {
    let claimed = with(fresh(), |w| {
        w.claimed_by = Some("security/older".into());
        w.roster.by_url = vec![remote("theirs")];
    });
    let status = report(&claimed, &plan(&claimed));
    assert_eq!((status.webhook_id, status.state), (None, None));
    let leaving = with(in_sync(), |w| {
        w.claimed_by = Some("security/older".into());
        w.deleting = true;
    });
    assert_eq!(plan(&leaving), Step::RemoveKeyring(Why::KeptByAnother));
    // If its own is gone, the one under that url is still the other's.
    let gone = with(leaving.clone(), |w| {
        w.roster.recorded = None;
        w.roster.absent_for = SETTLE;
    });
    assert_eq!(plan(&gone), Step::RemoveKeyring(Why::NothingOfOurs));
    // One of its own, under another url, is its own to delete.
    let own = with(leaving, |w| {
        w.roster.recorded.as_mut().unwrap().url = "https://alarms.example/old".into();
        w.memory.attempt = Attempt::Open;
    });
    assert!(matches!(plan(&own), Step::Delete(id, _) if id == "w1"));
}

#[test]
fn what_people_asked_for_goes_before_the_operators_own_care() {
    let drifted = |w: &mut World| {
        let step = plan(w);
        w.status.conditions = report(w, &step).conditions;
        w.roster.recorded.as_mut().unwrap().events.pop();
    };
    let care = |world: World| {
        let step = plan(&world);
        assert!(
            step.is_remote_write() || matches!(step, Step::Keyring(..)),
            "{step:?}"
        );
        // The number for the write comes first, and this is about the write.
        let step = match step {
            Step::Keyring(change, _) => plan(&with(world.clone(), |w| perform_keyring(w, change))),
            step => step,
        };
        assert!(step.is_remote_write(), "{step:?}");
        step.is_care()
    };
    assert!(care(with(in_sync(), drifted)), "a drift");
    let edited = with(in_sync(), |w| {
        drifted(w);
        w.generation += 1;
    });
    assert!(!care(edited), "an edit");
    let twin = with(in_sync(), |w| w.roster.by_url.push(remote("twin")));
    assert!(care(twin), "a twin");
    let deleted = with(in_sync(), |w| w.deleting = true);
    assert!(!care(deleted), "a deletion");
    let off = with(in_sync(), |w| {
        w.roster.recorded.as_mut().unwrap().state = Some("disabled".into());
    });
    assert!(!care(off), "what is switched off delivers nothing");
}

#[test]
fn without_permission_nothing_is_sent_and_nothing_is_taken_away() {
    let lost = |w: &mut World| {
        w.account = AccountView::NotReady(Reason::AccountNotAllowed, "not for you".into());
        w.roster = RosterView::default();
    };
    let world = with(in_sync(), |w| {
        lost(w);
        w.spec.events.push("site.armed".into());
    });
    let step = plan(&world);
    assert_eq!(
        because(step.clone()),
        Because::Lacking(Reason::AccountNotAllowed, "not for you".into())
    );
    let status = report(&world, &step);
    assert_eq!(status.webhook_id, world.recorded_id);
    assert_eq!(status.account.as_deref(), Some("security/default"));
    // And where nothing was ever sent, nothing is claimed and nothing holds a deletion up.
    let world = with(fresh(), lost);
    assert_eq!(report(&world, &plan(&world)).account, None);
    let world = with(fresh(), |w| {
        lost(w);
        w.deleting = true;
    });
    assert!(matches!(plan(&world), Step::ReleaseFinalizer(_)));
}

#[test]
fn after_a_restart_nothing_is_said_before_the_account_was_looked_at() {
    for deleting in [false, true] {
        let world = with(in_sync(), |w| {
            w.account = AccountView::Unknown;
            w.deleting = deleting;
        });
        assert_eq!(because(plan(&world)), Because::Starting);
    }
}

#[test]
fn a_refusal_waits_for_a_change_or_for_ten_minutes() {
    let refused = |generation, ago| {
        with(about_to_create(), |w| {
            w.memory.refusal = Some(Refusal {
                generation,
                create: false,
                key_id: None,
                message: "no".into(),
                ago,
            });
        })
    };
    assert_eq!(reason(&refused(1, Duration::ZERO)), Reason::Rejected);
    assert!(matches!(
        plan(&refused(0, Duration::ZERO)),
        Step::Create(..)
    ));
    assert!(matches!(plan(&refused(1, ASK_AGAIN)), Step::Create(..)));
    // A create that was refused because the one before had landed after all, as a list has shown since.
    let landed = with(refused(1, Duration::ZERO), |w| {
        w.memory.refusal.as_mut().unwrap().create = true;
        w.roster.by_url = vec![remote("w1")];
    });
    assert!(matches!(plan(&landed), Step::Patch(id, _, Why::TakesOver) if id == "w1"));
}

#[test]
fn a_failure_is_waited_out() {
    let failed = |wait| {
        with(about_to_create(), |w| {
            w.memory.trouble = Some(Trouble {
                message: "503".into(),
                wait,
            });
        })
    };
    assert_eq!(
        because(plan(&failed(Duration::from_secs(1)))),
        Because::Retrying("503".into())
    );
    assert!(matches!(plan(&failed(Duration::ZERO)), Step::Create(..)));
}

fn off(recovery: Option<(u64, Act)>) -> World {
    with(in_sync(), |w| {
        w.roster.recorded.as_mut().unwrap().state = Some("disabled".into());
        w.memory.attempt = Attempt::Open;
        w.memory.recovery = recovery.map(|(ago, act)| Attempted {
            ago: Duration::from_secs(ago),
            act,
        });
    })
}

#[test]
fn a_webhook_that_was_switched_off_is_switched_on_then_made_anew_and_never_in_a_hurry() {
    // The proof stands in the keyring before the PATCH leaves, whatever dies then.
    let proof = Step::Keyring(KeyringChange::NoteTest, Why::NotProvedAgain);
    let on = |w: &World| {
        let noted = with(w.clone(), |w| w.memory.test = Test::Recorded);
        plan(w) == proof
            && matches!(plan(&noted), Step::Patch(id, c, _) if id == "w1" && c.fields() == "status")
    };
    assert!(on(&off(None)));
    assert!(on(&off(Some((300, Act::Worked)))));
    assert!(on(&off(Some((300, Act::Deleted)))));
    for act in [Act::Patched, Act::Worked, Act::Deleted] {
        let waits = Step::Rest(Rest {
            because: Because::InSync,
            again: Some(Duration::from_secs(1)),
        });
        assert_eq!(plan(&off(Some((299, act)))), waits);
    }
    assert!(matches!(plan(&off(Some((300, Act::Patched)))), Step::Delete(id, _) if id == "w1"));
    // A PATCH that nobody answered is no reason to make another one; the pause after a failure keeps these apart.
    assert!(on(&off(Some((2, Act::Asked)))));
    let never = with(off(None), |w| {
        w.spec.recovery.policy = RecoveryPolicy::Never;
    });
    assert_eq!(because(plan(&never)), Because::InSync);
    let odd = with(off(None), |w| {
        w.roster.recorded.as_mut().unwrap().state = Some("zen".into());
    });
    assert_eq!(because(plan(&odd)), Because::InSync);
}

#[test]
fn a_webhook_that_is_on_again_is_proved_by_a_test_delivery_once() {
    let on_again = |act| {
        with(in_sync(), |w| {
            w.memory.recovery = Some(Attempted { ago: SETTLE, act });
        })
    };
    for act in [Act::Patched, Act::Asked, Act::Deleted] {
        let note = Step::Keyring(KeyringChange::NoteTest, Why::NotProvedAgain);
        assert_eq!(plan(&on_again(act)), note);
    }
    assert_eq!(because(plan(&on_again(Act::Worked))), Because::InSync);
}

#[test]
fn an_outage_begins_when_it_is_first_seen_and_ends_when_it_is_first_not() {
    let mut world = off(None);
    let began = report(&world, &plan(&world)).last_outage.unwrap();
    assert_eq!((began.from.0, began.to.clone()), (now(), None));
    world.status.last_outage = Some(began.clone());
    world.now = now() + SignedDuration::from_secs(60);
    assert_eq!(
        report(&world, &plan(&world)).last_outage,
        Some(began.clone())
    );
    world.roster.recorded.as_mut().unwrap().state = Some("active".into());
    let ended = report(&world, &plan(&world)).last_outage.unwrap();
    assert_eq!(
        (ended.from, ended.to.map(|t| t.0)),
        (began.from, Some(world.now))
    );
}

#[test]
fn two_patches_without_effect_end_in_stalled_with_the_field() {
    let stubborn = with(in_sync(), |w| {
        w.spec.events.push("site.armed".into());
        w.memory.unheeded = Some(unheeded(2, 1, 0));
        w.memory.attempt = Attempt::Open;
    });
    let Because::Stalled(Reason::NotConverging, message) = because(plan(&stubborn)) else {
        panic!("not stalled")
    };
    assert!(message.contains("events lack site.armed"), "{message}");
    // A changed spec, or a long while, is reason to ask once more.
    for again in [unheeded(2, 0, 0), unheeded(2, 1, 600)] {
        let world = with(stubborn.clone(), |w| w.memory.unheeded = Some(again));
        assert!(matches!(plan(&world), Step::Patch(..)));
    }
}

#[test]
fn what_does_not_converge_keeps_nobody_from_the_rest() {
    let stubborn = with(in_sync(), |w| {
        w.spec.events.push("site.armed".into());
        w.memory.unheeded = Some(unheeded(2, 1, 100));
        w.memory.attempt = Attempt::Open;
    });
    let Step::Rest(rest) = plan(&stubborn) else {
        panic!("no rest")
    };
    assert_eq!(rest.again, Some(Duration::from_secs(500)));
    let off = with(stubborn.clone(), |w| {
        w.roster.recorded.as_mut().unwrap().state = Some("disabled".into());
    });
    let off = with(off, |w| w.memory.test = Test::Recorded);
    assert!(matches!(plan(&off), Step::Patch(_, c, Why::SwitchedOff) if c.fields() == "status"));
    let switched = with(off, |w| {
        w.memory.recovery = Some(Attempted {
            ago: SETTLE,
            act: Act::Patched,
        });
    });
    assert!(matches!(
        because(plan(&switched)),
        Because::Stalled(Reason::NotConverging, _)
    ));
    // A new key is sent all the same, and comes into force.
    let rotates = with(stubborn, |w| {
        w.keyring.as_mut().unwrap().next = Some(key("generated-2"));
    });
    assert!(matches!(plan(&rotates), Step::Patch(_, c, _) if c.key.is_some()));
    let sent = with(rotates, |w| w.memory.asserted = Some("generated-2".into()));
    assert_eq!(
        plan(&sent),
        Step::Keyring(KeyringChange::Promote, Why::NewKeyInForce)
    );
}

#[test]
fn a_secret_that_chekt_does_not_sign_with_ends_in_stalled() {
    let rotated = with(in_sync(), |w| {
        let keyring = w.keyring.as_mut().unwrap();
        let old = keyring.current.replace(key("generated-2")).unwrap();
        keyring.previous = vec![Retired {
            key: old,
            until: now() + SignedDuration::from_secs(900),
        }];
        keyring.test.as_mut().unwrap().key_id = "generated-2".into();
        w.memory.asserted = Some("generated-2".into());
    });
    assert_eq!(because(plan(&rotated)), Because::InSync);
    let waits = |since: u64| Proof {
        since: Duration::from_secs(since),
        requests: 1,
        ..Proof::default()
    };
    let mut late = with(rotated, |w| w.memory.proof = waits(60));
    let Because::Stalled(Reason::NotConverging, message) = because(plan(&late)) else {
        panic!("not stalled")
    };
    assert!(message.contains("secret"), "{message}");
    late.status = report(&late, &plan(&late));
    late.status.deliveries = in_sync().status.deliveries;
    // The next test delivery is on its way: nothing is taken back before it has come.
    late.memory.proof = waits(0);
    assert!(matches!(because(plan(&late)), Because::Stalled(..)));
    let seen = late.status.deliveries.as_mut().unwrap();
    seen.last_test_key = Some("generated-2".into());
    assert_eq!(because(plan(&late)), Because::InSync);
}

#[test]
fn an_incomplete_list_keeps_nothing_from_what_is_known_by_its_id() {
    let incomplete = |world| {
        with(world, |w: &mut World| {
            let why = "the list is not whole".to_owned();
            w.account = AccountView::NotReady(Reason::ListIncomplete, why);
            w.roster.age = None;
            w.memory.attempt = Attempt::Open;
        })
    };
    let edited = with(in_sync(), |w| w.spec.events.push("site.armed".into()));
    assert!(matches!(plan(&incomplete(edited)), Step::Patch(id, ..) if id == "w1"));
    let deleted = with(in_sync(), |w| w.deleting = true);
    assert!(matches!(plan(&incomplete(deleted)), Step::Delete(id, _) if id == "w1"));
    let asks = with(in_sync(), |w| w.reconcile_requested = Some("now".into()));
    assert_eq!(because(plan(&incomplete(asks))), Because::InSync);
    // What a list would have to prove waits: that there is none, that another one is a twin, that one can be made anew.
    let twin = with(in_sync(), |w| w.roster.by_url.push(remote("w2")));
    assert_eq!(because(plan(&incomplete(twin))), Because::InSync);
    let stays_off = off(Some((300, Act::Patched)));
    assert_eq!(because(plan(&incomplete(stays_off))), Because::InSync);
    let waits = |world| {
        matches!(
            because(plan(&world)),
            Because::Lacking(Reason::ListIncomplete, _)
        )
    };
    assert!(waits(incomplete(about_to_create())));
    let unknown = with(in_sync(), |w| {
        w.roster = RosterView::default();
        w.deleting = true;
    });
    assert!(waits(incomplete(unknown)));
}

#[test]
fn a_changed_secret_goes_through_next_patch_current_and_previous() {
    let wanted = WantedSecret::Given(SigningSecret::new(b"new".to_vec()).unwrap());
    let world = with(in_sync(), |w| w.secret = wanted);
    assert_eq!(
        plan(&world),
        Step::Keyring(KeyringChange::Next, Why::SecretChanged)
    );
    let entropy = Entropy {
        secret: [1; 32],
        id: [2; 6],
    };
    let keyring = rotation::apply(KeyringChange::Next, &world, &entropy).unwrap();
    assert_eq!(keyring.current.as_ref().unwrap().id, "generated-1");
    assert_eq!(keyring.next.as_ref().unwrap().secret.expose(), b"new");
    let world = with(world, |w| {
        w.keyring = Some(keyring);
        w.memory.attempt = Attempt::Open;
    });
    // The receivers must know it before CHeKT signs with it.
    let spreading = with(world.clone(), |w| {
        w.memory.next_for = Some(Duration::from_millis(400));
    });
    assert_eq!(
        plan(&spreading),
        Step::Rest(Rest {
            because: Because::Spreading,
            again: Some(Duration::from_millis(600))
        })
    );
    let Step::Patch(_, change, _) = plan(&world) else {
        panic!("no patch")
    };
    assert_eq!(change.fields(), "secret");
    let world = with(world, |w| w.memory.asserted = change.key.map(|(id, _)| id));
    assert_eq!(
        plan(&world),
        Step::Keyring(KeyringChange::Promote, Why::NewKeyInForce)
    );
    let keyring = rotation::apply(KeyringChange::Promote, &world, &entropy).unwrap();
    assert_eq!(keyring.current.as_ref().unwrap().secret.expose(), b"new");
    assert_eq!(keyring.previous[0].key.id, "generated-1");
    assert_eq!(
        keyring.previous[0].until,
        now() + SignedDuration::from_mins(15)
    );
    assert_eq!(
        keyring.test.as_ref().unwrap().key_id,
        keyring.current.as_ref().unwrap().id
    );
}

#[test]
fn a_second_change_within_the_horizon_keeps_both_old_keys() {
    let entropy = Entropy {
        secret: [1; 32],
        id: [2; 6],
    };
    let mut world = in_sync();
    for secret in ["b", "c"] {
        world.secret = WantedSecret::Given(SigningSecret::new(secret.into()).unwrap());
        world.keyring = Some(rotation::apply(KeyringChange::Next, &world, &entropy).unwrap());
        world.keyring = Some(rotation::apply(KeyringChange::Promote, &world, &entropy).unwrap());
    }
    let keyring = world.keyring.unwrap();
    let accepted: Vec<&[u8]> = keyring.accepted().map(|k| k.secret.expose()).collect();
    assert_eq!(accepted, [b"c".as_slice(), b"b", b"secret of generated-1"]);
}

#[test]
fn previous_keys_go_when_they_have_run_out() {
    let entropy = Entropy {
        secret: [1; 32],
        id: [2; 6],
    };
    let mut world = in_sync();
    world.keyring.as_mut().unwrap().next = Some(key("generated-2"));
    world.keyring = Some(rotation::apply(KeyringChange::Promote, &world, &entropy).unwrap());
    world.memory.asserted = Some("generated-2".into());
    world.memory.test = Test::Sent;
    let seen = world.status.deliveries.as_mut().unwrap();
    seen.last_test_key = Some("generated-2".into());
    seen.last_test_number = Some(3);
    // Receivers accept it for as long as it is there, so nothing else that is the matter may keep it.
    let quarter = Duration::from_secs(15 * 60);
    let lacks = |w: &mut World| {
        w.account = AccountView::NotReady(Reason::AccountNotReady, "401".into());
    };
    for mut world in [
        world.clone(),
        with(world.clone(), |w| w.spec.suspend = true),
        with(world.clone(), |w| w.claimed_by = Some("older".into())),
        with(world.clone(), lacks),
        with(world.clone(), |w| {
            w.deleting = true;
            lacks(w);
        }),
    ] {
        let Step::Rest(rest) = plan(&world) else {
            panic!("no rest")
        };
        assert!(rest.again <= Some(quarter) && rest.again.is_some());
        world.now = now() + SignedDuration::from_mins(15);
        let gone = Step::Keyring(KeyringChange::DropExpired, Why::PreviousRanOut);
        assert_eq!(plan(&world), gone);
        let keyring = rotation::apply(KeyringChange::DropExpired, &world, &entropy).unwrap();
        assert!(keyring.previous.is_empty());
        // A write whose outcome is not known keeps its number.
        assert_eq!(keyring.attempt, world.keyring.unwrap().attempt);
    }
}

#[test]
fn a_test_delivery_that_does_not_come_is_asked_for_again_within_a_minute_and_then_ever_more_seldom()
{
    let rest = |seconds| {
        Step::Rest(Rest {
            because: Because::InSync,
            again: Some(Duration::from_secs(seconds)),
        })
    };
    let same = || Step::Test("w1".into(), Why::TestUnclear);
    let anew = || Step::Keyring(KeyringChange::NoteTest, Why::TestLost);
    // What is known of the request, how many there were, after how many seconds, and what then. Until then it rests.
    for (test, requests, after, then) in [
        // Whether CHeKT has it is not known: after a restart, or without an answer.
        (Test::NotAsked, 0, 30, same()),
        (Test::Unclear, 1, 30, same()),
        (Test::Unclear, 2, 120, anew()),
        // CHeKT has it.
        (Test::Sent, 1, 60, anew()),
        (Test::Sent, 2, 120, anew()),
        (Test::Sent, 3, 240, anew()),
        (Test::Sent, 4, 480, anew()),
        (Test::Sent, 5, 600, anew()),
        (Test::Sent, 1_000, 600, anew()),
        (Test::Refused("no".into()), 0, 600, anew()),
    ] {
        assert_eq!(plan(&unproved(test.clone(), after, requests)), then);
        let before = unproved(test.clone(), after - 1, requests);
        assert_eq!(plan(&before), rest(1), "{test:?} {requests}");
    }
    // Whether it is lost is said after a minute, whatever was asked for since.
    let repeated = with(unproved(Test::Sent, 10, 2), |w| {
        w.memory.proof.since = Duration::from_secs(50);
    });
    assert_eq!(plan(&repeated), rest(10));
    let never = with(unproved(Test::Sent, 6_000, 1), |w| {
        w.spec.test_policy = TestPolicy::Never;
    });
    assert_eq!(
        plan(&never),
        Step::Rest(Rest {
            because: Because::InSync,
            again: None
        })
    );
}

#[test]
fn verified_is_false_after_a_minute_and_until_a_test_delivery_has_come() {
    let said = |world: &World| spoken(world)[3].clone();
    let mut world = unproved(Test::Sent, 59, 1);
    assert_eq!(said(&world), "Verified=Unknown/TestPending");
    world.memory.proof.since = Duration::from_secs(60);
    assert_eq!(said(&world), "Verified=False/TestPending");
    world.status = report(&world, &plan(&world));
    // The next request, or a restart, is no reason to take that back.
    world.memory.proof = Proof::default();
    assert_eq!(said(&world), "Verified=False/TestPending");
    world.status.deliveries = in_sync().status.deliveries;
    assert_eq!(said(&world), "Verified=True/Verified");
}

#[test]
fn the_numbers_of_tests_go_on_after_the_keyring_was_lost() {
    let mut world = with(in_sync(), |w| {
        w.keyring = None;
        w.status.deliveries.as_mut().unwrap().last_test_number = Some(40);
    });
    perform_keyring(&mut world, KeyringChange::Next);
    perform_keyring(&mut world, KeyringChange::Promote);
    assert_eq!(world.keyring.unwrap().test.unwrap().number, 41);
}

#[test]
fn a_deletion_goes_remote_webhook_keyring_finalizer() {
    let deleting = with(in_sync(), |w| {
        w.deleting = true;
        w.memory.attempt = Attempt::Open;
    });
    assert!(matches!(plan(&deleting), Step::Delete(id, _) if id == "w1"));
    let deleted = with(deleting, |w| {
        w.memory.deleted = true;
        w.roster.recorded = None;
        w.roster.by_url = vec![];
    });
    assert_eq!(plan(&deleted), Step::RemoveKeyring(Why::DeletionConfirmed));
    assert!(matches!(
        plan(&with(deleted, |w| w.keyring = None)),
        Step::ReleaseFinalizer(_)
    ));
}

#[test]
fn an_orphan_is_put_on_record_and_left_without_a_word_to_chekt() {
    let orphan = with(in_sync(), |w| {
        w.deleting = true;
        w.spec.deletion_policy = DeletionPolicy::Orphan;
        w.account = AccountView::NotReady(Reason::AccountNotFound, "m".into());
    });
    let Step::Orphan(left, Why::OrphanPolicy) = plan(&orphan) else {
        panic!("not on record")
    };
    assert_eq!(
        (left.id.as_deref(), left.reason),
        (Some("w1"), OrphanReason::DeletionPolicy)
    );
    let on_record = with(orphan, |w| w.memory.orphaned = true);
    assert_eq!(plan(&on_record), Step::RemoveKeyring(Why::OrphanPolicy));
    let last = with(on_record, |w| w.keyring = None);
    assert_eq!(plan(&last), Step::ReleaseFinalizer(Why::OrphanPolicy));
    // After a crash in between it is put on record once more, which changes nothing there.
    let restarted = with(last, |w| w.memory = Memory::default());
    assert!(matches!(plan(&restarted), Step::Orphan(..)));
    let nothing = with(fresh(), |w| {
        w.deleting = true;
        w.spec.deletion_policy = DeletionPolicy::Orphan;
    });
    assert!(matches!(plan(&nothing), Step::ReleaseFinalizer(_)));
}

#[test]
fn credentials_that_are_gone_for_good_release_it_an_hour_after_its_deletion_and_nothing_else_does()
{
    let hour = Duration::from_secs(3600);
    let lost = |asked: u64, seen: u64, loss: bool| {
        with(in_sync(), |w| {
            w.deleting = true;
            w.account = AccountView::NotReady(Reason::AccountNotReady, "no Secret".into());
            w.removal = RemovalView {
                asked_at: Some(now() - SignedDuration::from_secs(i64::try_from(asked).unwrap())),
                orphan_after: hour,
                loss: loss.then_some(Loss {
                    reason: OrphanReason::SecretNotFound,
                    seen_for: Duration::from_secs(seen),
                }),
                definition: Definition::Stays,
            };
        })
    };
    let waits = |world: &World| match plan(world) {
        Step::Rest(Rest {
            again,
            because: Because::Lacking(_, message),
        }) => (again, message),
        other => panic!("does not wait: {other:?}"),
    };
    let (again, message) = waits(&lost(600, 500, true));
    assert_eq!(again, Some(DEFINITION_AGE));
    assert!(
        message.contains("let go of at 2027-01-15T08:50:00Z"),
        "{message}"
    );
    assert!(matches!(
        plan(&lost(3600, 60, true)),
        Step::Orphan(left, Why::CredentialsGone) if left.reason == OrphanReason::SecretNotFound
    ));
    // An outage that lasted for hours, and a no right after it.
    assert_eq!(
        waits(&lost(36_000, 10, true)).0,
        Some(Duration::from_secs(50))
    );
    assert_eq!(waits(&lost(36_000, 0, false)).0, Some(DEFINITION_AGE));
    // A request whose answer never came: there is no id to put on record, and it is said all the same.
    let unknown = with(about_to_create(), |w| {
        let known = lost(3600, 60, true);
        (w.deleting, w.account, w.removal) = (true, known.account, known.removal);
    });
    assert!(matches!(plan(&unknown), Step::Orphan(left, _) if left.id.is_none()));
}

#[test]
fn a_webhook_that_goes_with_the_definition_of_its_kind_is_let_go_of_whatever_else_it_waits_for() {
    let deleting = |definition| {
        with(in_sync(), |w| {
            w.deleting = true;
            w.memory.attempt = Attempt::Open;
            w.removal.definition = definition;
        })
    };
    assert!(matches!(
        plan(&deleting(Definition::Unknown)),
        Step::LookAtDefinition(_)
    ));
    assert!(matches!(
        plan(&deleting(Definition::Stays)),
        Step::Delete(..)
    ));
    let goes = |change: fn(&mut World)| with(deleting(Definition::Goes), change);
    for world in [
        goes(|_| {}),
        goes(|w| w.spec.suspend = true),
        goes(|w| w.account = AccountView::Unknown),
        goes(|w| w.account = AccountView::NotReady(Reason::AccountNotReady, "down".into())),
    ] {
        assert!(matches!(
            plan(&world),
            Step::Orphan(left, Why::DefinitionGoes) if left.reason == OrphanReason::DefinitionDeleted
        ));
    }
    // Nobody who waits keeps the definition for long without looking again.
    for waiting in [
        with(deleting(Definition::Stays), |w| w.spec.suspend = true),
        with(deleting(Definition::Stays), |w| {
            w.account = AccountView::NotReady(Reason::AccountNotReady, "down".into());
        }),
    ] {
        assert!(
            matches!(plan(&waiting), Step::Rest(Rest { again: Some(age), .. }) if age <= DEFINITION_AGE)
        );
    }
}

#[test]
fn a_rehearsal_goes_on_until_there_is_nothing_to_do() {
    let ends = |world: World| -> Vec<Step> {
        let steps = rehearsal::steps(&world);
        assert!(matches!(steps.last(), Some(Step::Rest(_))), "{steps:?}");
        steps
    };
    let made = ends(with(fresh(), |w| w.finalizer = false));
    assert!(
        made.iter().any(|s| matches!(s, Step::Create(..))),
        "{made:?}"
    );
    assert_eq!(because(made.last().unwrap().clone()), Because::InSync);
    let deleted = ends(with(in_sync(), |w| w.deleting = true));
    assert!(
        deleted
            .iter()
            .any(|s| matches!(s, Step::Delete(id, _) if id == "w1")),
        "{deleted:?}"
    );
    assert_eq!(because(deleted.last().unwrap().clone()), Because::Gone);
    // One that vanished is waited for in between.
    let again = ends(with(in_sync(), |w| {
        w.roster.recorded = None;
        w.roster.by_url = vec![];
    }));
    assert!(
        again.iter().any(|s| matches!(s, Step::Create(..))),
        "{again:?}"
    );
    assert_eq!(ends(in_sync()).len(), 1);
}

#[test]
fn a_webhook_that_never_sent_anything_goes_without_its_account() {
    let world = with(fresh(), |w| {
        w.deleting = true;
        w.account = AccountView::NotReady(Reason::AccountNotFound, "m".into());
    });
    assert!(matches!(plan(&world), Step::ReleaseFinalizer(_)));
}

#[test]
fn a_failed_or_missing_list_never_releases_a_finalizer() {
    let gone = |age: Option<u64>, apart: u64| {
        with(in_sync(), |w| {
            w.deleting = true;
            w.roster = RosterView {
                age: age.map(Duration::from_secs),
                absent_for: Duration::from_secs(apart),
                ..RosterView::default()
            };
        })
    };
    assert!(matches!(plan(&gone(None, 0)), Step::List(..)));
    assert_eq!(because(plan(&gone(Some(1), 0))), Because::Settling);
    assert!(matches!(plan(&gone(Some(60), 60)), Step::List(..)));
    let certain = with(gone(Some(1), SETTLE.as_secs()), |w| {
        w.memory.attempt = Attempt::Used;
    });
    assert_eq!(plan(&certain), Step::RemoveKeyring(Why::NothingOfOurs));
}

#[test]
fn a_deletion_that_cannot_go_on_says_why() {
    let stuck = with(in_sync(), |w| {
        w.deleting = true;
        w.account = AccountView::NotReady(Reason::AccountNotReady, "the API is down".into());
    });
    let status = report(&stuck, &plan(&stuck));
    let ready = conditions::find(&status.conditions, conditions::READY).unwrap();
    assert_eq!(ready.status, "False");
    assert_eq!(
        ready.message,
        "The remote webhook cannot be deleted yet: the API is down. To leave the remote webhook where it is, set spec.deletionPolicy to Orphan"
    );
    let suspended = with(in_sync(), |w| {
        w.deleting = true;
        w.spec.suspend = true;
    });
    assert_eq!(reason(&suspended), Reason::Suspended);
}

fn spoken(world: &World) -> Vec<String> {
    let status = report(world, &plan(world));
    status
        .conditions
        .iter()
        .map(|c| format!("{}={}/{}", c.type_, c.status, c.reason))
        .collect()
}

#[test]
fn conditions_of_a_quiet_webhook() {
    assert_eq!(
        spoken(&in_sync()),
        [
            "Ready=True/InSync",
            "Synced=True/InSync",
            "Active=True/Active",
            "Verified=True/Verified"
        ]
    );
}

#[test]
fn conditions_of_a_webhook_that_chekt_has_switched_off() {
    let off = with(in_sync(), |w| {
        w.roster.recorded.as_mut().unwrap().state = Some("Disabled".into());
    });
    assert_eq!(
        spoken(&off)[..3],
        [
            "Ready=False/SwitchedOff",
            "Synced=True/InSync",
            "Active=False/SwitchedOff"
        ]
    );
    let odd = with(in_sync(), |w| {
        w.roster.recorded.as_mut().unwrap().state = Some("zen".into());
    });
    assert_eq!(spoken(&odd)[0], "Ready=Unknown/UnknownState");
}

#[test]
fn conditions_of_a_webhook_whose_account_went_away_do_not_claim_to_know() {
    let lost = with(in_sync(), |w| {
        w.account = AccountView::NotReady(Reason::AccountNotReady, "401".into());
    });
    assert_eq!(
        spoken(&lost)[..2],
        [
            "Ready=Unknown/AccountNotReady",
            "Synced=Unknown/AccountNotReady"
        ]
    );
}

#[test]
fn a_test_delivery_that_cannot_be_asked_for_takes_nothing_from_ready() {
    let world = with(in_sync(), |w| {
        w.status.deliveries = None;
        w.memory.test = Test::Denied;
        w.memory.trouble = Some(Trouble {
            message: "429".into(),
            wait: SETTLE,
        });
    });
    assert_eq!(because(plan(&world)), Because::Retrying("429".into()));
    let said = spoken(&world);
    assert_eq!(said[0], "Ready=True/InSync");
    assert!(
        said[3].starts_with("Verified=Unknown") && said.len() == 4,
        "{said:?}"
    );
}

#[test]
fn a_verification_counts_for_its_key_its_url_and_its_number_and_for_no_time() {
    assert!(in_sync().is_verified());
    let other_key = with(in_sync(), |w| {
        w.keyring.as_mut().unwrap().current = Some(key("generated-2"));
    });
    assert!(!other_key.is_verified());
    assert!(!with(in_sync(), |w| w.url = "https://elsewhere.example".into()).is_verified());
    for number in [None, Some(1), Some(3)] {
        let another = with(in_sync(), |w| {
            w.status.deliveries.as_mut().unwrap().last_test_number = number;
        });
        assert!(!another.is_verified(), "{number:?}");
    }
    for skew in [-3_600, 3_600] {
        let at = Some(Time(now() + SignedDuration::from_secs(skew)));
        let skewed = with(in_sync(), |w| {
            w.status.deliveries.as_mut().unwrap().last_test_at = at;
        });
        assert!(skewed.is_verified(), "{skew}");
    }
}

#[test]
fn waiting_deliveries_are_said_for_as_long_as_a_receiver_says_so_and_take_nothing_from_ready() {
    let delayed = |skew: i64, unchanged: u64| {
        with(in_sync(), |w| {
            let at = |skew| Time(now() + SignedDuration::from_secs(skew));
            w.status.deliveries.as_mut().unwrap().delayed = Some(Delay {
                since: at(skew - 70),
                receiver: "pod-1".into(),
                seen_at: at(skew),
                cause: (skew == 60)
                    .then(|| "In namespace security the API server answers 500: x".into()),
            });
            w.memory.delay_unchanged = Duration::from_secs(unchanged);
        })
    };
    for (unchanged, ages_in) in [(0, Some(180)), (179, Some(1)), (180, None), (4_000, None)] {
        // Whatever the clock of the receiver says.
        for skew in [-3_600, 0, 3_600] {
            let world = delayed(skew, unchanged);
            let expected = ages_in.map(Duration::from_secs);
            assert_eq!(super::report::ages_in(&world), expected, "{unchanged}");
            let said = spoken(&world);
            assert_eq!(said[0], "Ready=True/InSync");
            let last = said.last().map(String::as_str);
            let is_said = last == Some("DeliveriesDelayed=True/EventsWaiting");
            assert_eq!(is_said, ages_in.is_some(), "{unchanged}: {said:?}");
        }
    }
    let first = report(&delayed(0, 0), &plan(&delayed(0, 0)));
    let later = with(delayed(0, 60), |w| {
        w.status.conditions.clone_from(&first.conditions);
    });
    assert_eq!(report(&later, &plan(&later)).conditions, first.conditions);
    let message = |world: &World| {
        let said = report(world, &plan(world)).conditions;
        said.last().unwrap().message.clone()
    };
    assert!(message(&later).contains("--events-per-second"));
    let refused = message(&delayed(60, 0));
    assert!(
        refused.contains("In namespace security the API server answers 500: x"),
        "{refused}"
    );
}

#[test]
fn reconciling_and_stalled_are_never_said_together() {
    let worlds = vec![
        fresh(),
        about_to_create(),
        in_sync(),
        with(in_sync(), |w| w.claimed_by = Some("a/b".into())),
        with(in_sync(), |w| w.spec.suspend = true),
        with(in_sync(), |w| w.deleting = true),
        with(about_to_create(), |w| {
            w.memory.unclear = Some(Duration::ZERO);
        }),
        with(about_to_create(), |w| {
            w.memory.trouble = Some(Trouble {
                message: "m".into(),
                wait: SETTLE,
            });
        }),
    ];
    for world in worlds {
        let said = spoken(&world)
            .into_iter()
            .filter(|c| c.starts_with("Reconciling") || c.starts_with("Stalled"));
        assert!(said.count() <= 1, "{:?}", spoken(&world));
    }
}

#[test]
fn a_status_that_was_reported_is_reported_again_to_the_letter() {
    let mut world = in_sync();
    let first = report(&world, &plan(&world));
    world.status = ChektWebhookStatus {
        deliveries: world.status.deliveries.clone(),
        ..first.clone()
    };
    world.now = now() + SignedDuration::from_secs(9);
    assert_eq!(report(&world, &plan(&world)), first);
}
