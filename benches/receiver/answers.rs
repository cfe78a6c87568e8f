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
    for (at, connections) in [FEW, MANY].into_iter().enumerate() {
        let (ours, floor) = (durable[at].cpu_a_request(), bare[at].cpu_a_request());
        table.goal(Goal {
            // What the next ratio comes to where nothing but the processor is waited for.
            what: format!("CPU a request: durable / bare handler, {connections} connections"),
            value: ours.as_secs_f64() / floor.as_secs_f64(),
            at_most: Some(3.0),
            at_least: None,
            scale: format!("{} / {}", micros(ours), micros(floor)),
        });
    }
    for (at, connections) in [FEW, MANY].into_iter().enumerate() {
        let (ours, floor) = (durable[at].rate(), bare[at].rate());
        table.goal(Goal {
            what: format!("rate: durable / bare handler, {connections} connections"),
            value: ours / floor,
            at_most: None,
            at_least: Some(1.0 / 3.0),
            scale: format!("{} / {}", rate(ours), rate(floor)),
        });
    }
    let third = bare[1].rate() / 3.0;
    let half = open(
        table,
        "durable, at a sixth of the bare rate",
        "receiver",
        third / 2.0,
    )?;
    let p99 = half.outcomes[0].quantile(0.99);
    table.goal(Goal {
        what: "p99 of durable at half of a third of the bare rate / 10 ms, open loop".to_owned(),
        value: p99.as_secs_f64() / 0.010,
        at_most: Some(1.0),
        at_least: None,
        scale: format!("{} at {}", millis(p99), rate(third / 2.0)),
    });
    open(
        table,
        "durable, at a third of the bare rate",
        "receiver",
        third,
    )?;
    open(
        table,
        "bare handler, at a sixth of its rate",
        "bare",
        third / 2.0,
    )?;
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
        "bare" => ("bare", Kind::Valid, 200),
        "verify-only" => ("receiver", Kind::Forged, 401),
        "durable" => ("receiver", Kind::Valid, 200),
        _ => anyhow::bail!("there is no {what}: name bare, verify-only or durable"),
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
