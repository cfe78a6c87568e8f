//! What an answer costs: the bare handler, our ingest up to the verification, and a 200 that is on disk.
//!
//! Each run has a server of its own, so that none inherits a full journal.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::child::Server;
use crate::deliveries::{Deliveries, Kind};
use crate::driver::{Pace, Plan, Run, Stream, drive};
use crate::servers;
use crate::table::{Goal, Table, micros, millis, rate};

const CLOSED: Plan = Plan {
    warm_up: Duration::from_millis(500),
    time: Duration::from_secs(3),
};
const OPEN: Plan = Plan {
    warm_up: Duration::from_millis(500),
    time: Duration::from_secs(6),
};
/// Connections in a closed loop.
const FEW: usize = 16;
/// Connections in a closed loop.
const MANY: usize = 64;
/// Connections of the open loop: more than are ever busy at a rate that the server holds.
const OPEN_CONNECTIONS: usize = 256;

/// Measures and fills the table.
///
/// # Errors
/// When a server does not start or dies.
pub fn measure(table: &mut Table) -> anyhow::Result<()> {
    let bare = [
        closed(table, "bare handler", "bare", Kind::Valid, FEW)?,
        closed(table, "bare handler", "bare", Kind::Valid, MANY)?,
    ];
    let verified = [
        closed(table, "verify-only", "receiver", Kind::Forged, FEW)?,
        closed(table, "verify-only", "receiver", Kind::Forged, MANY)?,
    ];
    let append = [
        closed(table, "append-only file", "append", Kind::Valid, FEW)?,
        closed(table, "append-only file", "append", Kind::Valid, MANY)?,
    ];
    let in_place = [
        closed(
            table,
            "file of its full length",
            "append-in-place",
            Kind::Valid,
            FEW,
        )?,
        closed(
            table,
            "file of its full length",
            "append-in-place",
            Kind::Valid,
            MANY,
        )?,
    ];
    let durable = [
        closed(table, "durable", "receiver", Kind::Valid, FEW)?,
        closed(table, "durable", "receiver", Kind::Valid, MANY)?,
    ];
    for (at, connections) in [FEW, MANY].into_iter().enumerate() {
        let (ours, floor) = (verified[at].cpu_a_request(), bare[at].cpu_a_request());
        table.goal(Goal {
            what: format!("CPU a request: verify-only / bare handler, {connections} connections"),
            value: ours.as_secs_f64() / floor.as_secs_f64(),
            at_most: Some(1.3),
            at_least: None,
            scale: format!("{} / {}", micros(ours), micros(floor)),
        });
    }
    for (floor, what, least) in [
        (&append, "append-only file", Some(0.8)),
        (&in_place, "file of its full length", None),
        (&bare, "bare handler", None),
    ] {
        for (at, connections) in [FEW, MANY].into_iter().enumerate() {
            let (ours, floor) = (durable[at].rate(), floor[at].rate());
            table.goal(Goal {
                what: format!("rate: durable / {what}, {connections} connections"),
                value: ours / floor,
                at_most: None,
                at_least: least,
                scale: format!("{} / {}", rate(ours), rate(floor)),
            });
        }
    }
    for (at, connections) in [FEW, MANY].into_iter().enumerate() {
        let (ours, floor) = (durable[at].cpu_a_request(), bare[at].cpu_a_request());
        table.goal(Goal {
            what: format!("CPU a request: durable / bare handler, {connections} connections"),
            value: ours.as_secs_f64() / floor.as_secs_f64(),
            at_most: None,
            at_least: None,
            scale: format!("{} / {}", micros(ours), micros(floor)),
        });
    }
    let half = durable[1].rate() / 2.0;
    let ours = open(table, "durable, at half of its rate", "receiver", half)?;
    let p99 = ours.outcomes[0].quantile(0.99);
    table.goal(Goal {
        what: format!(
            "p99 of durable at half of its rate with {MANY} connections / 10 ms, open loop"
        ),
        value: p99.as_secs_f64() / 0.010,
        at_most: Some(1.0),
        at_least: None,
        scale: format!("{} at {}", millis(p99), rate(half)),
    });
    open(table, "append-only file, at that rate", "append", half)?;
    open(table, "bare handler, at that rate", "bare", half)?;
    Ok(())
}

/// One run of one server, printed: what a profiler is to look at.
///
/// # Errors
/// When a word is none of ours, or as [`measure`].
pub fn once_for_a_profiler(
    what: &str,
    connections: &str,
    rate: Option<&str>,
) -> anyhow::Result<()> {
    let (server, kind, status) = match what {
        "bare" | "append" | "append-in-place" => (what, Kind::Valid, 200),
        "verify-only" => ("receiver", Kind::Forged, 401),
        "durable" => ("receiver", Kind::Valid, 200),
        _ => anyhow::bail!(
            "there is no {what}: name bare, append, append-in-place, verify-only or durable"
        ),
    };
    let (pace, plan) = match rate {
        Some(rate) => (Pace::Open(rate.parse()?), OPEN),
        None => (Pace::Closed, CLOSED),
    };
    let run = once(server, kind, pace, connections.parse()?, plan)?;
    Table::default().run(what, &run, status);
    Ok(())
}

fn closed(
    table: &mut Table,
    what: &str,
    server: &str,
    kind: Kind,
    connections: usize,
) -> anyhow::Result<Run> {
    let run = once(server, kind, Pace::Closed, connections, CLOSED)?;
    let what = format!("{what}, {connections} connections");
    table.run(&what, &run, if kind == Kind::Forged { 401 } else { 200 });
    Ok(run)
}

fn open(table: &mut Table, what: &str, server: &str, per_second: f64) -> anyhow::Result<Run> {
    let pace = Pace::Open(per_second);
    let run = once(server, Kind::Valid, pace, OPEN_CONNECTIONS, OPEN)?;
    table.run(&format!("{what}, open loop"), &run, 200);
    Ok(run)
}

fn once(
    server: &str,
    kind: Kind,
    pace: Pace,
    connections: usize,
    plan: Plan,
) -> anyhow::Result<Run> {
    let server = Server::start(server)?;
    let stream = Stream {
        deliveries: Deliveries::new(kind, &servers::identity(), false, 0)?,
        pace,
        connections,
        fresh: false,
        from: Ipv4Addr::LOCALHOST,
    };
    drive(server.address, server.pid, vec![stream], plan)
}
