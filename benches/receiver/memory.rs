//! How much memory the receiver holds when it knows a thousand webhooks and their keyrings.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::deliveries::{Deliveries, Kind};
use crate::driver::{Pace, Plan, Stream, drive};
use crate::harness::ControlPlane;
use crate::machine::{self, Resident};
use crate::planted::Planted;
use crate::table::{Goal, Table, mib};

const WEBHOOKS: usize = 1_000;
/// What was promised, in bytes.
const CEILING: u64 = 30 * 1024 * 1024;
/// Deliveries a second, for a while: what one receiver would get from some thousand sites.
const LOAD: f64 = 500.0;

/// Measures and fills the table.
///
/// # Errors
/// When something does not start.
pub async fn measure(
    plane: &'static ControlPlane,
    run: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let planted = Planted::new(plane, &format!("bench-memory-{run}"), WEBHOOKS).await?;
    let receiving = planted.receive(&[]).await?;
    let pid = receiving.process.id();
    let ready = machine::resident(pid)?;
    let (address, webhook) = (receiving.process.public()?, planted.webhooks[0].clone());
    tokio::task::block_in_place(|| {
        let stream = Stream {
            deliveries: Deliveries::new(Kind::Valid, &webhook, false, 0)?,
            pace: Pace::Open(LOAD),
            connections: 16,
            fresh: false,
            from: Ipv4Addr::LOCALHOST,
        };
        let plan = Plan {
            warm_up: Duration::ZERO,
            time: Duration::from_secs(5),
        };
        drive(address, pid, vec![stream], plan)
    })?;
    let loaded = machine::resident(pid)?;
    enter(table, "when ready", ready);
    enter(table, "after 5 s of 500 deliveries a second", loaded);
    Ok(())
}

#[allow(clippy::cast_precision_loss)]
fn enter(table: &mut Table, when: &str, resident: Resident) {
    table.goal(Goal {
        what: format!("resident memory with {WEBHOOKS} webhooks / 30 MiB, {when}"),
        value: resident.now as f64 / CEILING as f64,
        at_most: Some(1.0),
        at_least: None,
        scale: format!("{}, at most {}", mib(resident.now), mib(resident.peak)),
    });
}
