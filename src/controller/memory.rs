//! What the process remembers of a webhook between two passes, with the moments at which it happened.
//!
//! The plan sees durations ([`crate::webhook::world::Memory`]); this is where they come from.

use std::time::{Duration, Instant};

use crate::partner::fault::PartnerError;
use crate::resources::keyring::TestRequest;
use crate::resources::webhook::Delay;
use crate::webhook::health::{Act, Attempted};
use crate::webhook::world::{Attempt, Memory, Proof, Refusal, Test, Trouble, Unheeded};

/// The first pause after a failure; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// What the process remembers of a webhook.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// The id of the remote webhook, from the moment CHeKT says it: the status that a store shows is older.
    pub webhook_id: Option<String>,
    /// See [`Memory::attempt`].
    pub attempt: Attempt,
    /// When a write was sent whose outcome is not known.
    pub unclear_at: Option<Instant>,
    /// See [`Memory::asserted`].
    pub asserted: Option<String>,
    /// When a key was made `next`.
    pub next_at: Option<Instant>,
    /// CHeKT's last definite no, and when.
    pub refusal: Option<(Refusal, Instant)>,
    /// What failed, until when to wait, and how many times it failed in a row.
    pub trouble: Option<(String, Instant)>,
    /// Failures in a row.
    pub failures: u32,
    /// When the last failure happened, if it was the account's: once that is ready again, there is nothing to wait for.
    pub unanswered: Option<Instant>,
    /// What was last done to switch the webhook on, and when.
    pub recovery: Option<(Act, Instant)>,
    /// See [`Memory::unheeded`]: how many, for which generation, and when the last one was.
    pub unheeded: Option<(u32, i64, Instant)>,
    /// See [`Memory::test`].
    pub test: Test,
    /// See [`Memory::proof`].
    pub proof: Option<Awaited>,
    /// What a receiver says of a delay, and since when it has not changed.
    pub delay: Option<(Delay, Instant)>,
    /// See [`Memory::deleted`].
    pub deleted: bool,
    /// See [`Memory::orphaned`].
    pub orphaned: bool,
    /// Whether the definition of the kind was being deleted when it was last looked at, and when that was.
    pub definition: Option<(bool, Instant)>,
    /// Since when the credentials for it have been gone, without a break.
    pub lost_at: Option<Instant>,
    /// See [`Memory::listed_for`].
    pub listed_for: Option<String>,
}

/// The test delivery that is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Awaited {
    number: i64,
    asked: Instant,
    since: Instant,
    requests: u32,
}

impl Remembered {
    /// Looks at what other processes write: the time that passes until it changes is measured here, and the times in it
    /// are of other machines.
    pub fn look(&mut self, test: Option<&TestRequest>, delay: Option<&Delay>, now: Instant) {
        let number = test.map(|test| test.number);
        if self.proof.map(|proof| proof.number) != number {
            // Noted by an earlier process, which may have asked for it.
            self.test = Test::NotAsked;
            self.proof = number.map(|number| Awaited {
                number,
                asked: now,
                since: now,
                requests: 0,
            });
        }
        if self.delay.as_ref().map(|(seen, _)| seen) != delay {
            self.delay = delay.map(|delay| (delay.clone(), now));
        }
    }

    /// A test delivery was noted. `again`: after one for the same key and url that has not arrived.
    pub fn noted(&mut self, test: &TestRequest, again: bool, now: Instant) {
        let before = self.proof.filter(|_| again);
        self.test = Test::Recorded;
        self.proof = Some(Awaited {
            number: test.number,
            asked: now,
            since: before.map_or(now, |before| before.since),
            requests: before.map_or(0, |before| before.requests),
        });
    }

    /// A test delivery is about to be asked for. A pass that is dropped before the answer was read leaves it unknown whether
    /// CHeKT has the request.
    pub fn asks_for_test(&mut self, now: Instant) {
        self.test = Test::Unclear;
        if let Some(proof) = &mut self.proof {
            proof.asked = now;
        }
    }

    /// CHeKT has the request for a test delivery, or may have it.
    pub fn asked_for_test(&mut self, test: Test) {
        self.test = test;
        if let Some(proof) = &mut self.proof {
            proof.requests = proof.requests.saturating_add(1);
        }
    }

    /// What the plan may see of it. `recovered`: when the account last became ready again.
    #[must_use]
    pub fn view(&self, started: Instant, recovered: Option<Instant>, now: Instant) -> Memory {
        let is_over = self.unanswered.is_some_and(|at| recovered > Some(at));
        let ago = |at: Instant| now.saturating_duration_since(at);
        Memory {
            running_for: ago(started),
            attempt: self.attempt,
            unclear: self.unclear_at.map(ago),
            asserted: self.asserted.clone(),
            next_for: self.next_at.map(ago),
            refusal: self.refusal.as_ref().map(|(refusal, at)| Refusal {
                ago: ago(*at),
                ..refusal.clone()
            }),
            trouble: self
                .trouble
                .as_ref()
                .filter(|_| !is_over)
                .map(|(message, until)| Trouble {
                    message: message.clone(),
                    wait: until.saturating_duration_since(now),
                }),
            recovery: self
                .recovery
                .map(|(act, at)| Attempted { ago: ago(at), act }),
            unheeded: self.unheeded.map(|(patches, generation, at)| Unheeded {
                patches,
                generation,
                ago: ago(at),
            }),
            test: self.test.clone(),
            proof: self.proof.map_or_else(Proof::default, |proof| Proof {
                asked: ago(proof.asked),
                since: ago(proof.since),
                requests: proof.requests,
            }),
            delay_unchanged: self
                .delay
                .as_ref()
                .map_or(Duration::ZERO, |(_, at)| ago(*at)),
            deleted: self.deleted,
            orphaned: self.orphaned,
            listed_for: self.listed_for.clone(),
        }
    }

    /// Takes in a failure that may pass by itself. `at_least`: how long CHeKT asks us to wait.
    pub fn failed(&mut self, message: String, at_least: Option<Duration>, now: Instant) {
        let pause = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.unanswered = None;
        self.trouble = Some((message, now + at_least.unwrap_or_default().max(pause)));
    }

    /// Takes in a PATCH that was answered with success. Whether it was heeded, the next look tells.
    pub fn patched(&mut self, generation: i64, now: Instant) {
        let before = self.unheeded.filter(|(_, of, _)| *of == generation);
        let patches = before.map_or(0, |(patches, ..)| patches).saturating_add(1);
        self.unheeded = Some((patches, generation, now));
    }

    /// Takes in that a write is about to be sent: whoever drops the pass before the answer was read leaves its outcome
    /// unknown. Returns what was unknown before.
    pub fn sends(&mut self, now: Instant) -> Option<Instant> {
        self.unclear_at.replace(now)
    }

    /// Takes in what came of a write. After a definite no only what was unknown before it still is.
    pub fn heard(&mut self, before: Option<Instant>, outcome: &Result<(), PartnerError>) {
        if outcome.as_ref().is_err_and(|error| !error.unclear) {
            self.unclear_at = before;
        }
    }

    /// Takes in that a remote write was answered with success.
    pub fn answered(&mut self) {
        self.attempt = Attempt::Used;
        self.unclear_at = None;
        self.refusal = None;
        self.trouble = None;
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_after_a_failure_doubles_up_to_five_minutes_and_obeys_chekt() {
        let now = Instant::now();
        let mut memory = Remembered::default();
        let mut waits = Vec::new();
        for _ in 0..11 {
            memory.failed("x".to_owned(), None, now);
            waits.push(memory.view(now, None, now).trouble.unwrap().wait.as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        memory.answered();
        memory.failed("x".to_owned(), Some(Duration::from_secs(30)), now);
        assert_eq!(
            memory.view(now, None, now).trouble.unwrap().wait.as_secs(),
            30
        );
    }
    #[test]
    fn what_the_account_did_not_answer_is_tried_again_as_soon_as_it_is_back() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut memory = Remembered::default();
        memory.failed("x".to_owned(), None, now);
        let trouble = |memory: &Remembered, recovered| memory.view(now, recovered, now).trouble;
        assert!(
            trouble(&memory, Some(later)).is_some(),
            "it was not the account's"
        );
        memory.unanswered = Some(now);
        assert!(trouble(&memory, None).is_some() && trouble(&memory, Some(now)).is_some());
        assert!(trouble(&memory, Some(later)).is_none());
    }
}
