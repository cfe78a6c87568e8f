//! The driver: many connections on one thread, cheap enough to fill a server that has a core of its own.
//!
//! A closed loop sends the next delivery on a connection when the one before is answered, and finds the highest rate.
//! An open loop sends when a delivery is due, whatever the server does, and counts latency from that moment: a server
//! that stalls is charged for everything that came due meanwhile, which a closed loop would hide.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::time::Timespec;

use crate::deliveries::Deliveries;
use crate::machine::{self, Counts, Others};

/// How long answers are waited for after the last delivery.
const GRACE: Duration = Duration::from_secs(10);
/// The kernel may wake us this much late, so we are awake this much early.
const SLACK: Duration = Duration::from_micros(80);
/// How long a closed loop waits for an answer before it looks at the clock.
const LOOK: Duration = Duration::from_millis(5);

/// When deliveries are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the one before on that connection is answered.
    Closed,
    /// So many a second.
    Open(f64),
}

/// Deliveries of one kind, and how they are sent.
#[derive(Debug)]
pub struct Stream {
    /// What is sent.
    pub deliveries: Deliveries,
    /// When.
    pub pace: Pace,
    /// Connections at once.
    pub connections: usize,
    /// Whether each delivery has a connection of its own.
    pub fresh: bool,
    /// The address it comes from.
    pub from: Ipv4Addr,
}

/// How long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Not counted.
    pub warm_up: Duration,
    /// Counted.
    pub time: Duration,
}

/// What became of the deliveries of a stream that fall into the time that counts.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many answers of each status.
    pub answers: BTreeMap<u16, usize>,
    /// Connections that ended instead of an answer.
    pub broken: usize,
    /// Not answered, or not even sent, when the time was over.
    pub unanswered: usize,
    /// From due, or in a closed loop from sent, to the answer; in order.
    pub latencies: Vec<Duration>,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    /// One for each stream.
    pub outcomes: Vec<Outcome>,
    /// CPU time that the server used while it counted.
    pub server: Duration,
    /// CPU time that the driver used while it counted.
    pub driver: Duration,
    /// How long it counted.
    pub time: Duration,
    /// What the kernel counted for the server meanwhile.
    pub counts: Counts,
    /// The share of one core that other processes had.
    pub others: f64,
}

impl Outcome {
    /// The latency that this share of the answers did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        #[allow(clippy::cast_sign_loss)] // A share of a length is an index.
        let at = (self.latencies.len() as f64 * share) as usize;
        let last = self.latencies.len().saturating_sub(1);
        self.latencies
            .get(at.min(last))
            .copied()
            .unwrap_or_default()
    }

    /// The number of answers with this status.
    pub fn answered(&self, status: u16) -> usize {
        self.answers.get(&status).copied().unwrap_or(0)
    }

    /// Says what was not as it should be, if anything was not.
    pub fn other_than(&self, status: u16) -> Option<String> {
        let mut odd: Vec<String> = self
            .answers
            .iter()
            .filter(|(found, _)| **found != status)
            .map(|(found, count)| format!("{count} answers {found}"))
            .collect();
        for (count, what) in [
            (self.broken, "broken connections"),
            (self.unanswered, "without an answer"),
        ] {
            if count > 0 {
                odd.push(format!("{count} {what}"));
            }
        }
        (!odd.is_empty()).then(|| odd.join(", "))
    }
}

impl Run {
    /// Answers a second of the only stream.
    #[allow(clippy::cast_precision_loss)]
    pub fn rate(&self) -> f64 {
        let answers: usize = self.outcomes[0].answers.values().sum();
        answers as f64 / self.time.as_secs_f64()
    }

    /// CPU time of the server for one answer of the only stream.
    pub fn cpu_a_request(&self) -> Duration {
        self.server
            .div_f64((self.rate() * self.time.as_secs_f64()).max(1.0))
    }

    /// The share of their cores that server and driver used.
    pub fn busy(&self) -> (f64, f64) {
        let of = |used: Duration| used.as_secs_f64() / self.time.as_secs_f64();
        (of(self.server), of(self.driver))
    }
}

/// Drives a server with all streams at once, on the driver's core.
///
/// # Errors
/// When the system refuses what is needed, or the server is gone.
pub fn drive(
    address: SocketAddr,
    server: u32,
    streams: Vec<Stream>,
    plan: Plan,
) -> anyhow::Result<Run> {
    let core = machine::cores()?.driver;
    let others = Others::watch()?;
    let run = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            machine::pin(core)?;
            Driver::new(address, streams)?.run(server, plan)
        });
        run.join().ok().context("the driver panicked")?
    })?;
    Ok(Run {
        others: others.share()?,
        ..run
    })
}

enum State {
    /// No connection.
    Closed,
    /// A connection that is being made.
    Connecting,
    /// A connection without a delivery on its way.
    Idle,
    /// A delivery is on its way.
    Waiting,
}

struct Slot {
    stream: usize,
    state: State,
    socket: Option<TcpStream>,
    /// When the delivery on its way was due.
    due: Instant,
    /// What is still to be written.
    unwritten: Vec<u8>,
    /// What was read of an answer.
    answer: Vec<u8>,
}

struct Lane {
    stream: Stream,
    /// Slots that can take a delivery.
    free: Vec<usize>,
    /// Due, and not sent yet.
    overdue: VecDeque<Instant>,
    next: Instant,
    outcome: Outcome,
}

struct Driver {
    address: SocketAddr,
    epoll: OwnedFd,
    lanes: Vec<Lane>,
    slots: Vec<Slot>,
    in_flight: usize,
    from: Instant,
    until: Instant,
}

impl Driver {
    fn new(address: SocketAddr, streams: Vec<Stream>) -> anyhow::Result<Self> {
        let now = Instant::now();
        let mut driver = Driver {
            address,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            lanes: Vec::new(),
            slots: Vec::new(),
            in_flight: 0,
            from: now,
            until: now,
        };
        for (number, stream) in streams.into_iter().enumerate() {
            let first = driver.slots.len();
            driver.slots.extend((0..stream.connections).map(|_| Slot {
                stream: number,
                state: State::Closed,
                socket: None,
                due: now,
                unwritten: Vec::new(),
                answer: Vec::new(),
            }));
            driver.lanes.push(Lane {
                free: (first..driver.slots.len()).collect(),
                stream,
                overdue: VecDeque::new(),
                next: now,
                outcome: Outcome::default(),
            });
        }
        Ok(driver)
    }

    fn run(mut self, server: u32, plan: Plan) -> anyhow::Result<Run> {
        let start = Instant::now();
        self.from = start + plan.warm_up;
        self.until = self.from + plan.time;
        for lane in &mut self.lanes {
            lane.next = start;
        }
        let mut events = Vec::with_capacity(1024);
        let mut before = None;
        loop {
            let now = Instant::now();
            if before.is_none() && now >= self.from {
                self.from = now;
                self.until = now + plan.time;
                before = Some((
                    machine::counts_of(server)?,
                    machine::cpu_of(server)?,
                    machine::cpu_of_this_thread()?,
                ));
            }
            if now >= self.until {
                break;
            }
            let wait = self.send_what_is_due(now)?;
            self.poll(&mut events, wait)?;
        }
        let (counts, server_before, driver_before) = before.context("the warm-up never ended")?;
        let run = Run {
            server: machine::cpu_of(server)?.saturating_sub(server_before),
            driver: machine::cpu_of_this_thread()?.saturating_sub(driver_before),
            time: self.from.elapsed(),
            counts: machine::counts_of(server)?.since(counts),
            others: 0.0,
            outcomes: Vec::new(),
        };
        // What is due is still sent, and everything sent still waited for, or the slowest would not count.
        let last = Instant::now() + GRACE;
        while Instant::now() < last {
            let late = self
                .lanes
                .iter()
                .map(|lane| lane.overdue.len())
                .sum::<usize>();
            if late == 0 && self.in_flight == 0 {
                break;
            }
            self.send_overdue()?;
            self.poll(&mut events, LOOK)?;
        }
        Ok(Run {
            outcomes: self.concluded(),
            ..run
        })
    }

    fn concluded(mut self) -> Vec<Outcome> {
        for slot in &self.slots {
            let waits = matches!(slot.state, State::Connecting | State::Waiting);
            let lane = &mut self.lanes[slot.stream];
            let counts = lane.stream.pace != Pace::Closed && slot.due >= self.from;
            lane.outcome.unanswered += usize::from(waits && counts);
        }
        let conclude = |mut lane: Lane| {
            lane.outcome.unanswered += lane.overdue.len();
            lane.outcome.latencies.sort_unstable();
            lane.outcome
        };
        self.lanes.into_iter().map(conclude).collect()
    }

    /// Sends what is due, and says how long nothing more will be.
    fn send_what_is_due(&mut self, now: Instant) -> anyhow::Result<Duration> {
        let mut wait = LOOK;
        for lane in &mut self.lanes {
            match lane.stream.pace {
                Pace::Closed => lane.overdue.extend(lane.free.iter().map(|_| now)),
                Pace::Open(per_second) => {
                    while lane.next <= now {
                        lane.overdue.push_back(lane.next);
                        lane.next += Duration::from_secs_f64(1.0 / per_second);
                    }
                    wait = wait.min((lane.next - now).saturating_sub(SLACK));
                }
            }
        }
        self.send_overdue()?;
        Ok(wait)
    }

    fn send_overdue(&mut self) -> anyhow::Result<()> {
        for number in 0..self.lanes.len() {
            loop {
                let lane = &mut self.lanes[number];
                if lane.overdue.is_empty() {
                    break;
                }
                let Some(slot) = lane.free.pop() else { break };
                let Some(due) = lane.overdue.pop_front() else {
                    break;
                };
                self.send(slot, due)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, at: usize, due: Instant) -> anyhow::Result<()> {
        let slot = &mut self.slots[at];
        let stream = &mut self.lanes[slot.stream].stream;
        let request = stream.deliveries.next();
        slot.due = due;
        slot.answer.clear();
        self.in_flight += 1;
        if let (State::Idle, Some(socket)) = (&slot.state, &mut slot.socket)
            && socket.write(request).is_ok_and(|n| n == request.len())
        {
            slot.state = State::Waiting;
            return Ok(());
        }
        // None, or the server closed it while nothing was on its way.
        slot.unwritten = request.to_vec();
        slot.socket = None;
        slot.state = State::Connecting;
        let socket = connect(self.address, stream.from)?;
        let all = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, EventData::new_u64(at as u64), all)?;
        slot.socket = Some(socket);
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<epoll::Event>, wait: Duration) -> anyhow::Result<()> {
        let wait = Timespec::try_from(wait)?;
        events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(events),
            Some(&wait),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.iter() {
            let at = usize::try_from(event.data.u64())?;
            self.look_at(at);
        }
        Ok(())
    }

    fn look_at(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        let Some(socket) = &mut slot.socket else {
            return;
        };
        if matches!(slot.state, State::Connecting) {
            match socket.write(&slot.unwritten) {
                Ok(n) if n == slot.unwritten.len() => {
                    slot.state = State::Waiting;
                    slot.unwritten = Vec::new();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Not connected after all. Half of a delivery does not occur: a new socket has room for one.
                Ok(_) | Err(_) => return self.broken(at),
            }
        }
        let mut buffer = [0; 4096];
        loop {
            match socket.read(&mut buffer) {
                Ok(0) => return self.ended(at),
                Ok(n) => {
                    slot.answer.extend_from_slice(&buffer[..n]);
                    // Edge-triggered, and a short read has emptied it.
                    if n < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.ended(at),
            }
        }
        if matches!(slot.state, State::Waiting)
            && let Some(answer) = Answer::read(&slot.answer)
        {
            self.answered(at, &answer);
        }
    }

    fn answered(&mut self, at: usize, answer: &Answer) {
        let now = Instant::now();
        let slot = &mut self.slots[at];
        let lane = &mut self.lanes[slot.stream];
        let counts = match lane.stream.pace {
            Pace::Closed => now >= self.from && now < self.until,
            Pace::Open(_) => slot.due >= self.from,
        };
        if counts {
            *lane.outcome.answers.entry(answer.status).or_default() += 1;
            lane.outcome.latencies.push(now - slot.due);
        }
        if answer.closes || lane.stream.fresh {
            slot.socket = None;
            slot.state = State::Closed;
        } else {
            slot.state = State::Idle;
        }
        lane.free.push(at);
        self.in_flight -= 1;
    }

    /// The server has closed a connection.
    fn ended(&mut self, at: usize) {
        match self.slots[at].state {
            State::Connecting | State::Waiting => self.broken(at),
            State::Idle | State::Closed => {
                self.slots[at].socket = None;
                self.slots[at].state = State::Closed;
            }
        }
    }

    fn broken(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.socket = None;
        slot.state = State::Closed;
        let lane = &mut self.lanes[slot.stream];
        lane.outcome.broken += usize::from(slot.due >= self.from);
        lane.free.push(at);
        self.in_flight -= 1;
    }
}

/// Begins to connect from a certain address.
fn connect(to: SocketAddr, from: Ipv4Addr) -> anyhow::Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
    if from != Ipv4Addr::LOCALHOST {
        rustix::net::bind(&socket, &SocketAddrV4::new(from, 0))?;
    }
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error).with_context(|| format!("cannot connect from {from} to {to}")),
    }
}

/// What is looked at of an answer.
struct Answer {
    status: u16,
    closes: bool,
}

impl Answer {
    /// Reads an answer, if all of it is there.
    fn read(bytes: &[u8]) -> Option<Answer> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = response.parse(bytes) else {
            return None;
        };
        let header = |name: &str| {
            let found = response
                .headers
                .iter()
                .find(|h| h.name.eq_ignore_ascii_case(name));
            found.and_then(|h| std::str::from_utf8(h.value).ok())
        };
        let length: usize = header("content-length")?.trim().parse().ok()?;
        (bytes.len() >= head + length).then(|| Answer {
            status: response.code.unwrap_or(0),
            closes: header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        })
    }
}
