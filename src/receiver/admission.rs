//! Who may come in, and who has to leave for it.
//!
//! A cap alone protects the process and not the deliveries: as many silent connections as the cap allows would keep
//! every valid one outside until their deadlines pass, and a delivery is answered within five seconds or it has
//! failed. So whoever comes when all places are taken gets the place of the connection that has had the longest time
//! to prove itself and has not: a connection is *proven* once it has delivered a request with a valid signature.
//! Nobody without a secret can be proven, so a flood can only ever push out itself.
//!
//! An unproven connection has a moment of grace, for a handshake takes its time, and without more that moment would let
//! a flood decide how fast others come in: as many newcomers in it as there are places, and everybody waits. So nobody
//! waits for the sake of a peer that holds more places than the newcomer's would, nor does a peer that is *known*, having
//! delivered something valid within the hour; and who holds a place already does not wait for a second one, but changes it.
//!
//! Plain data with the time handed in. A search looks at every connection; it happens only when all places are taken,
//! and a thousand of them are looked at in some microseconds.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// For how long a peer is known after its last valid delivery.
const KNOWN: Duration = Duration::from_secs(60 * 60);
/// The most peers that are known. CHeKT delivers from a handful; the one that was quiet longest is forgotten.
const MOST_KNOWN: usize = 1_024;

/// Whom connections are counted for: an IPv4 address, or the /64 that one customer of a provider gets as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(Ipv6Addr);

impl Peer {
    /// Whom this address belongs to.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Peer(v4.to_ipv6_mapped()),
            IpAddr::V6(v6) => Peer(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        }
    }
}

/// How many may be there, and how long everybody is left in peace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Connections of the process.
    pub connections: usize,
    /// Connections of one peer.
    pub per_peer: usize,
    /// How long an unproven connection keeps its place whoever comes. A handshake of TLS and a request from the other
    /// side of the world take half of it.
    pub grace: Duration,
    /// How long a proven connection must have rested before its place may be given away, where no unproven one is
    /// left to go.
    pub rest: Duration,
}

/// The number of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u64);

/// What becomes of a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<Handle> {
    /// There is a place.
    Enter(Id),
    /// There is a place once this other one has been told to leave. It is no longer counted.
    Instead(Id, Handle),
    /// Nobody can go yet: ask again at this moment, or when somebody has left or is at rest.
    Wait(Option<Instant>),
    /// This peer has as many as it may, and all of them have delivered something lately.
    Refuse,
}

#[derive(Debug)]
struct Connection<Handle> {
    peer: Option<Peer>,
    /// Where its peer is counted.
    slot: Option<usize>,
    came: Instant,
    /// When it last delivered something valid.
    proven: Option<Instant>,
    /// Valid deliveries that are being written down for it right now.
    at_work: u32,
    handle: Handle,
}

/// Who is the next to go.
struct Next {
    id: Id,
    /// Not before this moment.
    from: Instant,
    standing: Standing,
}

/// How good the claim of a connection to its place is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It has proven nothing, nor has its peer.
    Unknown,
    /// It has proven nothing, but others of its peer have.
    Known,
    /// It has delivered something valid.
    Proven,
}

/// The connections that are open. `Handle` is whatever tells one of them to leave.
#[derive(Debug)]
pub struct Admission<Handle> {
    caps: Caps,
    open: HashMap<Id, Connection<Handle>>,
    /// The slot of each peer that holds a place.
    peers: HashMap<Peer, usize>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    known: HashMap<Peer, Instant>,
    last: u64,
}

/// What a search must know of a peer, found without looking its address up: there are as many searches as newcomers
/// while all places are taken.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Places that it holds.
    held: usize,
    /// When it last delivered something valid, as far as that is remembered.
    known: Option<Instant>,
}

impl<Handle> Admission<Handle> {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(caps: Caps) -> Self {
        Admission {
            caps,
            open: HashMap::new(),
            peers: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            known: HashMap::new(),
            last: 0,
        }
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Somebody has come. Without a peer it is counted for the process only. The handle is asked for when there is a
    /// place.
    pub fn arrive(
        &mut self,
        peer: Option<Peer>,
        now: Instant,
        handle: impl FnOnce() -> Handle,
    ) -> Verdict<Handle> {
        let held = self.held(peer);
        if peer.is_some() && held >= self.caps.per_peer {
            // Its own go first, and without any grace: it must not push out anybody else's, and where a deliverer and a
            // flood share an address, it is better to be pushed out by the hundredth after you than not to be let in.
            return match self.next_to_go(now, |connection| connection.peer == peer) {
                Some(next) if next.standing < Standing::Proven || next.from <= now => {
                    self.replace(next.id, peer, now, handle)
                }
                Some(_) | None => Verdict::Refuse,
            };
        }
        if self.open.len() < self.caps.connections {
            return Verdict::Enter(self.enter(peer, now, handle()));
        }
        let Some(next) = self.next_to_go(now, |_| true) else {
            return Verdict::Wait(None);
        };
        let holds_more = self.share(next.id) > held + 1;
        let no_grace = match next.standing {
            Standing::Unknown => holds_more || self.is_known(peer, now),
            Standing::Known => holds_more,
            Standing::Proven => false,
        };
        if no_grace || next.from <= now {
            return self.replace(next.id, peer, now, handle);
        }
        // Whoever holds a place already changes it for this one, which costs nobody else anything.
        let own = self.next_to_go(now, |connection| peer.is_some() && connection.peer == peer);
        match own {
            Some(own) if own.standing < Standing::Proven => self.replace(own.id, peer, now, handle),
            Some(_) | None => Verdict::Wait(Some(next.from)),
        }
    }

    /// A valid delivery has come over this connection and is being written down.
    pub fn begin_work(&mut self, id: Id, now: Instant) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.proven = Some(now);
            connection.at_work = connection.at_work.saturating_add(1);
            if let Some(peer) = connection.peer {
                self.remember(peer, now);
            }
        }
    }

    /// It has been written down, or could not be.
    pub fn end_work(&mut self, id: Id, now: Instant) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.proven = Some(now);
            connection.at_work = connection.at_work.saturating_sub(1);
        }
    }

    /// This connection is closed.
    pub fn leave(&mut self, id: Id) {
        let _ = self.remove(id);
    }

    /// Who goes first among those that fit, and from when on: the worst standing first; of those without any proof
    /// whoever's peer holds the most places, and then whoever came or rested first. Nobody goes for whom a valid delivery is
    /// being written down. A proven connection goes only where no other is left at all: a crowd of newcomers that are
    /// still in their grace must not push out those who have shown who they are.
    fn next_to_go(&self, now: Instant, fits: impl Fn(&Connection<Handle>) -> bool) -> Option<Next> {
        let idle = self
            .open
            .iter()
            .filter(|(_, connection)| connection.at_work == 0 && fits(connection));
        idle.map(|(id, connection)| {
            let (standing, from) = match connection.proven {
                Some(at) => (Standing::Proven, at + self.caps.rest),
                None if is_recent(self.slot(connection).known, now) => {
                    (Standing::Known, connection.came + self.caps.grace)
                }
                None => (Standing::Unknown, connection.came + self.caps.grace),
            };
            let share = match standing {
                Standing::Unknown | Standing::Known => self.slot(connection).held,
                Standing::Proven => 1,
            };
            (standing, Reverse(share), from, *id)
        })
        .min()
        .map(|(standing, _, from, id)| Next { id, from, standing })
    }

    /// What is known of the peer of a connection; one place where nobody is counted.
    fn slot(&self, connection: &Connection<Handle>) -> Slot {
        let slot = connection.slot.and_then(|slot| self.slots.get(slot));
        slot.copied().unwrap_or(Slot {
            held: 1,
            known: None,
        })
    }

    /// How many places this peer holds.
    fn held(&self, peer: Option<Peer>) -> usize {
        peer.and_then(|peer| self.peers.get(&peer))
            .and_then(|slot| self.slots.get(*slot))
            .map_or(0, |slot| slot.held)
    }

    /// How many places the peer of this connection holds.
    fn share(&self, id: Id) -> usize {
        self.open.get(&id).map_or(1, |open| self.slot(open).held)
    }

    fn is_known(&self, peer: Option<Peer>, now: Instant) -> bool {
        is_recent(peer.and_then(|peer| self.known.get(&peer)).copied(), now)
    }

    fn remember(&mut self, peer: Peer, now: Instant) {
        if self.known.len() >= MOST_KNOWN && !self.known.contains_key(&peer) {
            let quietest = self.known.iter().min_by_key(|(_, last)| **last);
            if let Some(quietest) = quietest.map(|(peer, _)| *peer) {
                self.known.remove(&quietest);
            }
        }
        self.known.insert(peer, now);
        if let Some(slot) = self
            .peers
            .get(&peer)
            .and_then(|slot| self.slots.get_mut(*slot))
        {
            slot.known = Some(now);
        }
    }

    fn replace(
        &mut self,
        leaves: Id,
        peer: Option<Peer>,
        now: Instant,
        handle: impl FnOnce() -> Handle,
    ) -> Verdict<Handle> {
        match self.remove(leaves) {
            Some(told) => Verdict::Instead(self.enter(peer, now, handle()), told),
            None => Verdict::Enter(self.enter(peer, now, handle())),
        }
    }

    fn enter(&mut self, peer: Option<Peer>, now: Instant, handle: Handle) -> Id {
        self.last += 1;
        let id = Id(self.last);
        let slot = peer.map(|peer| self.take_slot(peer));
        self.open.insert(
            id,
            Connection {
                peer,
                slot,
                came: now,
                proven: None,
                at_work: 0,
                handle,
            },
        );
        id
    }

    /// The slot of a peer that takes one more place.
    fn take_slot(&mut self, peer: Peer) -> usize {
        let slot = match self.peers.get(&peer) {
            Some(slot) => *slot,
            None => self.free.pop().unwrap_or_else(|| {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }),
        };
        self.peers.insert(peer, slot);
        let known = self.known.get(&peer).copied();
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.held += 1;
            slot.known = known;
        }
        slot
    }

    fn remove(&mut self, id: Id) -> Option<Handle> {
        let connection = self.open.remove(&id)?;
        if let (Some(peer), Some(slot)) = (connection.peer, connection.slot)
            && let Some(entry) = self.slots.get_mut(slot)
        {
            entry.held = entry.held.saturating_sub(1);
            if entry.held == 0 {
                self.peers.remove(&peer);
                self.free.push(slot);
            }
        }
        Some(connection.handle)
    }
}

fn is_recent(last: Option<Instant>, now: Instant) -> bool {
    last.is_some_and(|last| now.saturating_duration_since(last) < KNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps {
        connections: 3,
        per_peer: 2,
        grace: Duration::from_secs(1),
        rest: Duration::from_secs(5),
    };

    /// What happens, at a number of milliseconds.
    #[derive(Clone, Copy)]
    enum Happens {
        /// Somebody of this name comes from this address, or through a proxy.
        Comes(&'static str, Option<&'static str>, Expected),
        /// Delivers something valid, which is written down at once.
        Delivers(&'static str),
        /// Delivers something valid that takes long to write down.
        Begins(&'static str),
        Ends(&'static str),
        Leaves(&'static str),
    }
    use Expected::{Enters, Is, Replaces, Waits};
    use Happens::{Begins, Comes, Delivers, Ends, Leaves};

    #[derive(Clone, Copy, Debug)]
    enum Expected {
        Enters,
        Replaces(&'static str),
        Waits(Option<u64>),
        Is(&'static str),
    }

    fn play(what: &str, steps: &[(u64, Happens)]) {
        let start = Instant::now();
        let mut admission = Admission::new(CAPS);
        let mut ids = HashMap::new();
        for (at, happens) in steps {
            let now = start + Duration::from_millis(*at);
            match *happens {
                Comes(name, from, expected) => {
                    let peer = from.map(|from| Peer::of(from.parse().unwrap()));
                    let seen = match (admission.arrive(peer, now, || name), expected) {
                        (Verdict::Enter(id), Enters) => ids.insert(name, id).is_none(),
                        (Verdict::Instead(id, left), Replaces(other)) => {
                            ids.insert(name, id);
                            left == other
                        }
                        (Verdict::Wait(until), Waits(expected)) => {
                            until == expected.map(|ms| start + Duration::from_millis(ms))
                        }
                        (Verdict::Refuse, Is("refused")) => true,
                        (other, _) => panic!("{what}: at {at} {name} got {other:?}"),
                    };
                    assert!(seen, "{what}: at {at} {name}: not {expected:?}");
                }
                Delivers(name) => {
                    admission.begin_work(ids[name], now);
                    admission.end_work(ids[name], now);
                }
                Begins(name) => admission.begin_work(ids[name], now),
                Ends(name) => admission.end_work(ids[name], now),
                Leaves(name) => admission.leave(ids[name]),
            }
            assert!(admission.len() <= CAPS.connections, "{what}: at {at}");
        }
    }

    #[test]
    fn whoever_has_proven_nothing_for_the_longest_time_goes_first() {
        let (v4, other, third) = (Some("192.0.2.1"), Some("192.0.2.2"), Some("192.0.2.3"));
        let cases: [(&str, &[(u64, Happens)]); 13] = [
            (
                "the oldest unproven one makes room, from a second on",
                &[
                    (0, Comes("a", None, Enters)),
                    (100, Comes("b", None, Enters)),
                    (200, Comes("c", None, Enters)),
                    (300, Comes("d", None, Waits(Some(1_000)))),
                    (1_000, Comes("d", None, Replaces("a"))),
                    (1_000, Comes("e", None, Waits(Some(1_100)))),
                    (1_100, Comes("e", None, Replaces("b"))),
                ],
            ),
            (
                "a place that is free is taken",
                &[
                    (0, Comes("a", None, Enters)),
                    (0, Comes("b", None, Enters)),
                    (0, Comes("c", None, Enters)),
                    (10, Leaves("b")),
                    (20, Comes("d", None, Enters)),
                ],
            ),
            (
                "a proven one stays while there is an unproven one, however young",
                &[
                    (0, Comes("a", None, Enters)),
                    (0, Comes("b", None, Enters)),
                    (0, Comes("c", None, Enters)),
                    (10, Delivers("a")),
                    (10, Delivers("b")),
                    (9_000, Comes("d", None, Replaces("c"))),
                    (9_100, Comes("e", None, Waits(Some(10_000)))),
                    (10_000, Comes("e", None, Replaces("d"))),
                ],
            ),
            (
                "where all are proven, the one that has rested longest goes, after five seconds",
                &[
                    (0, Comes("a", None, Enters)),
                    (0, Comes("b", None, Enters)),
                    (0, Comes("c", None, Enters)),
                    (100, Delivers("a")),
                    (200, Delivers("b")),
                    (300, Delivers("c")),
                    (400, Delivers("a")),
                    (500, Comes("d", None, Waits(Some(5_200)))),
                    (5_200, Comes("d", None, Replaces("b"))),
                ],
            ),
            (
                "nobody goes for whom a delivery is being written down",
                &[
                    (0, Comes("a", None, Enters)),
                    (0, Comes("b", None, Enters)),
                    (0, Comes("c", None, Enters)),
                    (0, Begins("a")),
                    (0, Begins("b")),
                    (0, Begins("c")),
                    (90_000, Comes("d", None, Waits(None))),
                    (90_000, Ends("b")),
                    (90_000, Comes("d", None, Waits(Some(95_000)))),
                    (95_000, Comes("d", None, Replaces("b"))),
                ],
            ),
            (
                "a peer with as many as it may have replaces its own and nobody else's",
                &[
                    (0, Comes("old", other, Enters)),
                    (500, Comes("a", v4, Enters)),
                    (500, Comes("b", v4, Enters)),
                    (600, Comes("c", v4, Replaces("a"))),
                    (700, Comes("d", v4, Replaces("b"))),
                    (750, Comes("e", third, Replaces("c"))),
                    (1_000, Comes("f", Some("192.0.2.4"), Replaces("old"))),
                ],
            ),
            (
                "nobody waits for the sake of a peer that holds more than they would",
                &[
                    (0, Comes("a", v4, Enters)),
                    (1, Comes("b", v4, Enters)),
                    (2, Comes("c", other, Enters)),
                    (3, Comes("d", third, Replaces("a"))),
                    (4, Comes("e", Some("192.0.2.4"), Waits(Some(1_001)))),
                ],
            ),
            (
                "who has a place changes it for the new one, and nobody else loses theirs",
                &[
                    (0, Comes("a", v4, Enters)),
                    (1, Comes("b", other, Enters)),
                    (2, Comes("c", third, Enters)),
                    (3, Comes("d", v4, Replaces("a"))),
                    (1_001, Comes("e", v4, Replaces("b"))),
                ],
            ),
            (
                "a peer that has delivered does not wait for strangers, and loses its own places after theirs",
                &[
                    (0, Comes("a", v4, Enters)),
                    (1, Delivers("a")),
                    (2, Leaves("a")),
                    (3, Comes("b", other, Enters)),
                    (4, Comes("c", third, Enters)),
                    (5, Comes("d", Some("192.0.2.4"), Enters)),
                    (6, Comes("e", v4, Replaces("b"))),
                    (1_500, Comes("f", other, Replaces("c"))),
                    (3_600_000, Comes("g", third, Replaces("d"))),
                    (3_600_001, Comes("h", Some("192.0.2.5"), Replaces("e"))),
                ],
            ),
            (
                "nor those of its own that have just delivered",
                &[
                    (0, Comes("a", v4, Enters)),
                    (0, Comes("b", v4, Enters)),
                    (0, Delivers("a")),
                    (0, Begins("b")),
                    (1, Comes("c", v4, Is("refused"))),
                    (5_000, Comes("c", v4, Replaces("a"))),
                    (5_001, Comes("d", v4, Replaces("c"))),
                ],
            ),
            (
                "what a peer has left is not counted any more",
                &[
                    (0, Comes("a", v4, Enters)),
                    (0, Comes("b", v4, Enters)),
                    (0, Leaves("a")),
                    (0, Leaves("a")),
                    (0, Comes("c", v4, Enters)),
                    (0, Comes("d", v4, Replaces("b"))),
                ],
            ),
            (
                "one /64 is one peer, and an IPv4 address is one in either spelling",
                &[
                    (0, Comes("a", Some("2001:db8::1"), Enters)),
                    (0, Comes("b", Some("2001:db8::ffff:2"), Enters)),
                    (0, Comes("c", Some("2001:db8::3"), Replaces("a"))),
                    (0, Comes("d", Some("2001:db8:0:1::3"), Enters)),
                    (0, Leaves("b")),
                    (0, Leaves("c")),
                    (0, Comes("e", v4, Enters)),
                    (0, Comes("f", Some("::ffff:192.0.2.1"), Enters)),
                    (0, Leaves("d")),
                    (0, Comes("g", v4, Replaces("e"))),
                ],
            ),
            (
                "what has left already, or was told to, changes nothing",
                &[
                    (0, Comes("a", None, Enters)),
                    (0, Leaves("a")),
                    (0, Delivers("a")),
                    (0, Ends("a")),
                    (0, Comes("b", None, Enters)),
                ],
            ),
        ];
        for (what, steps) in cases {
            play(what, steps);
        }
    }
}
