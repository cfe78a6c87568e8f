//! How one connection behaves, and when that is enough.
//!
//! hyper has one timer, and it counts a header that comes slowly and a connection that rests between two requests as
//! the same thing. They are not. Whoever has proven nothing is cut after ten seconds, however it spends them. But a
//! proxy before us keeps connections in a pool, and a pool that keeps them for longer than we do will one day send a
//! delivery over one that we are just closing; a POST is not sent twice by a proxy, so that delivery fails. So a
//! *proven* connection, one that has delivered something valid, may rest for longer than any usual pool keeps it.
//!
//! Plain data with the time handed in, asked again whenever [`Look::Fine`] says.

use std::time::Duration;

use tokio::time::Instant;

use super::opening::{Opening, Streams};

/// What a connection is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From its beginning, or its last answer, to the end of the next request's headers.
    pub headers: Duration,
    /// How long a proven connection may rest between two requests.
    pub idle: Duration,
    /// How long an answer may lie there without anything of it being taken.
    pub stall: Duration,
    /// After this age it takes one more request and is then closed.
    pub life: Duration,
    /// After so many requests it is closed.
    pub requests: u32,
    /// After so many requests it is closed if not one of them was valid.
    pub unproven_requests: u32,
}

/// Why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It has proven nothing and sends no complete header.
    Silent,
    /// It has rested for too long.
    Idle,
    /// It does not take its answers.
    Deaf,
    /// It is far too old.
    Old,
    /// It goes on asking after what should have been its last answer.
    Many,
}

impl Cut {
    /// One word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Cut::Silent => "silent",
            Cut::Idle => "idle",
            Cut::Deaf => "deaf",
            Cut::Old => "old",
            Cut::Many => "many",
        }
    }
}

/// What to do with a connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing, until this moment.
    Fine(Instant),
    /// Close it, whatever it is doing.
    Enough(Cut),
}

/// What one connection has done so far.
#[derive(Clone, Debug)]
pub struct Conduct {
    patience: Patience,
    came: Instant,
    /// Its last sign of life as far as it counts: its beginning or an answer.
    since: Instant,
    /// When the first byte of a header came that is not complete.
    header: Option<Instant>,
    /// The first bytes of that header.
    opening: Opening,
    streams: Streams,
    /// The last request had its answer before all of its body came, so what comes now may be the rest of it.
    leftover: bool,
    http2: bool,
    proven: bool,
    requests: u32,
    in_progress: u32,
    /// Answers that are not written yet, and when something was last taken of them.
    unsent: u32,
    taken: Instant,
}

impl Conduct {
    /// A connection that was accepted now.
    #[must_use]
    pub fn new(patience: Patience, now: Instant) -> Self {
        Conduct {
            patience,
            came: now,
            since: now,
            header: None,
            opening: Opening::default(),
            streams: Streams::default(),
            leftover: false,
            http2: false,
            proven: false,
            requests: 0,
            in_progress: 0,
            unsent: 0,
            taken: now,
        }
    }

    /// Bytes have come.
    pub fn heard(&mut self, now: Instant) {
        // While a request is in progress they are its body, which has a deadline of its own; and HTTP/2 has frames
        // that belong to no request.
        if self.in_progress == 0 && !self.http2 && self.header.is_none() {
            self.header = Some(now);
        }
    }

    /// These bytes have come, as a request or as what stands in its place.
    pub fn read(&mut self, bytes: &[u8]) {
        if self.http2 || !self.has_spoken() {
            self.streams.push(bytes);
        }
        if self.in_progress == 0 && !self.http2 && !self.leftover {
            self.opening.push(bytes);
        }
    }

    /// The TLS handshake has succeeded: what came until now is no request.
    pub fn shaken(&mut self) {
        self.opening.clear();
        self.streams = Streams::default();
    }

    /// How many requests over HTTP/2 were refused without becoming one.
    #[must_use]
    pub fn refused_streams(&self) -> u32 {
        if self.http2 || self.opening.is_http2() {
            self.streams.opened().saturating_sub(self.requests)
        } else {
            0
        }
    }

    /// The first bytes of a request that has not become one.
    #[must_use]
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// The headers of a request are complete.
    pub fn request(&mut self, http2: bool) {
        self.http2 = http2;
        self.header = None;
        self.opening.clear();
        self.leftover = false;
        self.requests = self.requests.saturating_add(1);
        self.in_progress = self.in_progress.saturating_add(1);
    }

    /// A request had a valid signature, or the peer is trusted for another reason.
    pub fn prove(&mut self) {
        self.proven = true;
    }

    /// A request has its answer and not all of its body was read.
    pub fn leave_body(&mut self) {
        self.leftover = true;
    }

    /// A request has its answer, or was withdrawn.
    pub fn answered(&mut self, now: Instant) {
        self.since = now;
        self.in_progress = self.in_progress.saturating_sub(1);
    }

    /// An answer is ready to be written.
    pub fn unsent(&mut self, now: Instant) {
        if self.unsent == 0 {
            self.taken = now;
        }
        self.unsent = self.unsent.saturating_add(1);
    }

    /// An answer was taken.
    pub fn sent(&mut self, now: Instant) {
        self.taken = now;
        self.unsent = self.unsent.saturating_sub(1);
    }

    /// Whether the next answer should be its last, for its own sake.
    #[must_use]
    pub fn is_last(&self, now: Instant) -> bool {
        self.requests >= self.most() || now >= self.came + self.patience.life
    }

    fn most(&self) -> u32 {
        if self.proven {
            self.patience.requests
        } else {
            self.patience.unproven_requests
        }
    }

    /// Whether it has made a request yet.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        self.requests > 0
    }

    /// Whether it speaks HTTP/2.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.http2
    }

    /// When it came.
    #[must_use]
    pub fn came(&self) -> Instant {
        self.came
    }

    /// Whether it is to be cut, or when to look again.
    #[must_use]
    pub fn look(&self, now: Instant) -> Look {
        let patience = &self.patience;
        // HTTP/2 asks a peer to go and waits for its consent; who opens streams and takes them back gives none.
        if self.requests > self.most().saturating_mul(2) {
            return Look::Enough(Cut::Many);
        }
        // Whoever takes one byte a second gets no further than this.
        let mut ends = vec![(self.came + patience.life + patience.idle, Cut::Old)];
        if self.unsent > 0 {
            ends.push((self.taken + patience.stall, Cut::Deaf));
        }
        // A request in progress has its answer after four seconds at most.
        if self.in_progress == 0 {
            ends.push(match (self.proven, self.header) {
                (false, _) => (self.since + patience.headers, Cut::Silent),
                (true, Some(first)) => (first + patience.headers, Cut::Silent),
                (true, None) => (self.since + patience.idle, Cut::Idle),
            });
        }
        let mut next = now + patience.headers.min(patience.stall);
        for (at, why) in ends {
            if at <= now {
                return Look::Enough(why);
            }
            next = next.min(at);
        }
        Look::Fine(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        headers: Duration::from_secs(10),
        idle: Duration::from_secs(600),
        stall: Duration::from_secs(5),
        life: Duration::from_secs(1_000),
        requests: 5,
        unproven_requests: 3,
    };

    /// What a connection does, at a number of seconds.
    #[derive(Clone, Copy)]
    enum Does {
        Bytes,
        Http1,
        Http2,
        Valid,
        Answer,
        Taken,
    }
    /// What it is called, what it does, and when it is cut for which reason.
    type Case<'c> = (&'c str, &'c [(u64, Does)], u64, Cut);
    use Does::{Answer, Bytes, Http1, Http2, Taken, Valid};

    fn after(start: Instant, steps: &[(u64, Does)]) -> Conduct {
        let mut conduct = Conduct::new(PATIENCE, start);
        for (at, does) in steps {
            let now = start + Duration::from_secs(*at);
            match does {
                Bytes => conduct.heard(now),
                Http1 => conduct.request(false),
                Http2 => conduct.request(true),
                Valid => conduct.prove(),
                Answer => {
                    conduct.answered(now);
                    conduct.unsent(now);
                }
                Taken => conduct.sent(now),
            }
        }
        conduct
    }

    #[test]
    fn everybody_is_cut_when_it_is_enough_and_not_before() {
        let one: &[(u64, Does)] = &[(1, Http1), (1, Valid), (2, Answer), (2, Taken)];
        let cases: [Case; 11] = [
            ("says nothing", &[], 10, Cut::Silent),
            (
                "trickles a header",
                &[(1, Bytes), (9, Bytes)],
                10,
                Cut::Silent,
            ),
            (
                "had one refused and says nothing",
                &[(1, Http1), (2, Answer), (2, Taken)],
                12,
                Cut::Silent,
            ),
            ("rests, and is proven", one, 602, Cut::Idle),
            (
                "is proven and trickles the next header",
                &[
                    (1, Http1),
                    (1, Valid),
                    (2, Answer),
                    (2, Taken),
                    (30, Bytes),
                    (39, Bytes),
                ],
                40,
                Cut::Silent,
            ),
            (
                "is proven, and the frames of HTTP/2 are no header",
                &[(1, Http2), (1, Valid), (2, Answer), (2, Taken), (30, Bytes)],
                602,
                Cut::Idle,
            ),
            (
                "takes no answer",
                &[(1, Http1), (1, Valid), (2, Answer)],
                7,
                Cut::Deaf,
            ),
            (
                "takes one answer of two, and not the other",
                &[(1, Http2), (1, Http2), (2, Answer), (2, Answer), (5, Taken)],
                10,
                Cut::Deaf,
            ),
            (
                "the bytes of a body are no header",
                &[(1, Http1), (1, Valid), (2, Bytes), (3, Answer), (3, Taken)],
                603,
                Cut::Idle,
            ),
            ("is at work for ever", &[(1, Http1)], 1_600, Cut::Old),
            (
                "a request that was withdrawn is no longer in progress",
                &[
                    (1, Http2),
                    (1, Http2),
                    (2, Answer),
                    (2, Taken),
                    (3, Answer),
                    (3, Taken),
                ],
                13,
                Cut::Silent,
            ),
        ];
        for (what, steps, at, why) in cases {
            let start = Instant::now();
            let conduct = after(start, steps);
            let moment = start + Duration::from_secs(at);
            assert_eq!(conduct.look(moment), Look::Enough(why), "{what}");
            let before = conduct.look(moment - Duration::from_millis(1));
            assert!(matches!(before, Look::Fine(_)), "{what}: {before:?}");
        }
    }

    #[test]
    fn it_is_looked_at_again_when_something_may_be_due() {
        let start = Instant::now();
        let proven = after(start, &[(1, Http1), (1, Valid), (2, Answer), (2, Taken)]);
        let now = start + Duration::from_secs(100);
        assert_eq!(proven.look(now), Look::Fine(now + PATIENCE.stall));
        let deaf = after(start, &[(1, Http1), (1, Valid), (2, Answer)]);
        let (now, due) = (
            start + Duration::from_secs(3),
            start + Duration::from_secs(7),
        );
        assert_eq!(deaf.look(now), Look::Fine(due));
    }

    #[test]
    fn there_is_a_last_answer_by_number_and_by_age() {
        let start = Instant::now();
        let (soon, late) = (
            start + Duration::from_secs(3),
            start + Duration::from_secs(1_000),
        );
        let asked = |valid: bool, requests: usize| {
            let mut steps = vec![(1, Http1); requests];
            if valid {
                steps.push((1, Valid));
            }
            after(start, &steps)
        };
        assert!(!asked(false, 2).is_last(soon));
        assert!(asked(false, 3).is_last(soon));
        assert!(!asked(true, 4).is_last(soon));
        assert!(asked(true, 5).is_last(soon));
        assert!(asked(true, 1).is_last(late));
        assert!(matches!(asked(false, 6).look(soon), Look::Fine(_)));
        assert_eq!(asked(false, 7).look(soon), Look::Enough(Cut::Many));
        assert!(matches!(asked(true, 7).look(soon), Look::Fine(_)));
    }
}
