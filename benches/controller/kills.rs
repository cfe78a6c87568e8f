//! Creates and kills: three hundred webhooks, and five SIGKILLs while they are made, for ours and both peers.
//!
//! Each is killed when CHeKT has seen a sixth, two sixths, ... of as many POSTs as there are webhooks, and started again
//! at once. Then it has time to put right what it can. Counted is at CHeKT and in the objects; nobody is asked what they
//! did.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::api::ListParams;

use crate::bulk::POST;
use crate::contender::Contender;
use crate::harness::{ControlPlane, eventually};
use crate::kopf::Kopf;
use crate::scene::{Scene, Shape, is_made};

const WEBHOOKS: usize = 300;
const KILLS: usize = 5;
/// How long one has to put right what it can, and to remove everything: longer than the minute after which both peers
/// look again.
const SETTLE: Duration = Duration::from_secs(150);
/// No change for so long counts as settled, once all say that they are made.
const STILL: Duration = Duration::from_secs(15);

/// What became of it.
#[derive(Clone, Debug, Default)]
struct Verdict {
    posts: usize,
    duplicates: usize,
    losses: usize,
    stuck: usize,
    leaks: usize,
    undeletable: usize,
}

/// Measures and prints the table.
///
/// # Errors
/// When something does not start.
pub async fn measure(plane: &'static ControlPlane) -> anyhow::Result<()> {
    let kopf = Kopf::find();
    let mut contenders = vec![Contender::Ours, Contender::Naive];
    match &kopf {
        Ok(kopf) => contenders.push(Contender::Kopf(kopf)),
        Err(error) => println!("NOT MEASURED: the kopf handler: {error:#}"),
    }
    let mut rows = String::new();
    for who in contenders {
        let Verdict {
            posts,
            duplicates,
            losses,
            stuck,
            leaks,
            undeletable,
        } = one(plane, who).await?;
        let row = format!(
            "| {} | {posts} | {duplicates} | {losses} | {stuck} | {leaks} | {undeletable} |",
            who.name()
        );
        println!("{row}");
        let _ = writeln!(rows, "{row}");
    }
    println!(
        "\n| {WEBHOOKS} webhooks, {KILLS} kills | POSTs | duplicates | losses | stuck | leaks | undeletable |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    print!("{rows}");
    Ok(())
}

async fn one(plane: &'static ControlPlane, who: Contender<'_>) -> anyhow::Result<Verdict> {
    let scene = Scene::new(plane, "kills", "10s").await?;
    scene.slow_posts(POST).await?;
    scene.plant(0..WEBHOOKS, Shape::Given).await?;
    let posts = async || -> anyhow::Result<usize> {
        let calls = scene.calls(0).await?;
        let posts = calls
            .iter()
            .filter(|c| c.route.as_deref() == Some("create"));
        Ok(posts.count())
    };
    let mut running = who.start(&scene).await?;
    for kill in 1..=KILLS {
        // Not by `eventually`, which looks every 50 ms: half of them are made in that.
        let (wanted, began) = (kill * WEBHOOKS / (KILLS + 1), Instant::now());
        while posts().await? < wanted && began.elapsed() < SETTLE {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        running.kill()?;
        running = who.start(&scene).await?;
    }
    let mut verdict = settled(&scene).await?;
    verdict.posts = posts().await?;

    scene.delete_all().await?;
    let gone = eventually("all objects to be gone", SETTLE, || async {
        let left = scene.users.webhooks().list(&ListParams::default()).await?;
        anyhow::ensure!(left.items.is_empty(), "{}", left.items.len());
        Ok(())
    });
    if gone.await.is_err() {
        let left = scene.users.webhooks().list(&ListParams::default()).await?;
        verdict.undeletable = left.items.len();
    }
    verdict.leaks = scene.chekt.webhooks().await?.len();
    running.kill()?;
    Ok(verdict)
}

/// Waits until nothing changes any more or the time is over, and counts then.
async fn settled(scene: &Scene) -> anyhow::Result<Verdict> {
    let began = Instant::now();
    let mut last = (Verdict::default(), 0, Instant::now());
    loop {
        let (now, made) = look(scene).await?;
        let (seen, was, since) = &last;
        let same = format!("{seen:?}{was}") == format!("{now:?}{made}");
        if same && made == WEBHOOKS && since.elapsed() > STILL || began.elapsed() > SETTLE {
            return Ok(now);
        }
        if !same {
            last = (now, made, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn look(scene: &Scene) -> anyhow::Result<(Verdict, usize)> {
    let remote = scene.chekt.webhooks().await?;
    let mut by_url: HashMap<&str, usize> = HashMap::new();
    for webhook in &remote {
        *by_url.entry(webhook.url.as_str()).or_default() += 1;
    }
    let of_id: HashMap<&str, &str> = remote
        .iter()
        .map(|w| (w.webhook_id.as_str(), w.url.as_str()))
        .collect();
    let objects = scene.users.webhooks().list(&ListParams::default()).await?;
    let wanted: HashSet<String> = objects
        .items
        .iter()
        .filter_map(|w| w.spec.url.clone())
        .collect();
    // It does not know the webhook that is its own, or says that it is not done.
    let stuck = objects.items.iter().filter(|w| {
        let id = w.status.as_ref().and_then(|s| s.webhook_id.as_deref());
        let own = id.and_then(|id| of_id.get(id).copied());
        own.is_none() || own != w.spec.url.as_deref() || !is_made(w)
    });
    let made = objects.items.iter().filter(|w| is_made(w)).count();
    let verdict = Verdict {
        duplicates: by_url.values().map(|count| count - 1).sum(),
        losses: wanted
            .iter()
            .filter(|url| !by_url.contains_key(url.as_str()))
            .count(),
        stuck: stuck.map(ResourceExt::name_any).count(),
        ..Verdict::default()
    };
    Ok((verdict, made))
}
