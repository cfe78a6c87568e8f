//! Many at once: what a created webhook costs, and how fast a thousand are made.
//!
//! CHeKT takes 50 ms for a POST here. The clock runs from the first write to any of the webhooks until the last one says
//! that it is made. Contenders take turns, since an API server gets slower as it fills.

use std::time::Duration;

use crate::ceiling;
use crate::contender::Contender;
use crate::counted::Counted;
use crate::goals::{Goal, Goals};
use crate::harness::ControlPlane;
use crate::kopf::Kopf;
use crate::scene::{Scene, Shape};

/// What is made at once.
pub const WEBHOOKS: usize = 1_000;
/// How long CHeKT takes for a POST.
pub const POST: Duration = Duration::from_millis(50);
/// With the test delivery, which is no race.
const WITH_TEST: usize = 300;
/// Turns of ours and of the naive reconciler.
const TURNS: usize = 3;
/// How long one turn may take.
const LONGEST: Duration = Duration::from_secs(180);

/// How one contender did.
struct Turn {
    /// Webhooks a second.
    rate: f64,
    /// Requests to the API server until the last webhook was made.
    meanwhile: Counted,
    /// The same, and what came after.
    counted: Counted,
}

/// Measures and fills the table.
///
/// # Errors
/// When something does not start or is not done in time.
#[allow(clippy::cast_precision_loss)] // Small counts.
pub async fn measure(plane: &'static ControlPlane, goals: &mut Goals) -> anyhow::Result<()> {
    let kopf = Kopf::find();
    let mut ceilings = Vec::new();
    let (mut ours, mut naive) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        ceilings.push(ceilings_of(plane).await?);
        naive.push(turn(plane, Contender::Naive).await?);
        ours.push(turn(plane, Contender::Ours).await?);
    }
    let kopf = match &kopf {
        Ok(kopf) => Some(turn(plane, Contender::Kopf(kopf)).await?),
        Err(error) => {
            goals.not_measured("the kopf handler", &format!("{error:#}"));
            None
        }
    };
    let ceiling = median(ceilings);
    let rate = |turns: &[Turn]| median(turns.iter().map(|t| t.rate).collect());
    let (rate_ours, rate_naive) = (rate(&ours), rate(&naive));
    let n = WEBHOOKS as f64;
    let Some((last, naively)) = ours.last().zip(naive.last()) else {
        anyhow::bail!("nothing was measured")
    };
    goals.goal(Goal {
        what: "Kubernetes writes per created webhook on the object, given url and secret"
            .to_owned(),
        value: last.counted.on_objects() as f64 / n,
        at_most: Some(2.005),
        at_least: None,
        scale: format!("{} webhooks: {}", WEBHOOKS, last.counted),
    });
    goals.goal(Goal {
        what: "the same, with the keyring; without Events".to_owned(),
        value: last.counted.writes() as f64 / n,
        at_most: Some(3.01),
        at_least: None,
        scale: format!("and {:.2} Events", last.counted.events() as f64 / n),
    });
    // Events are written by a task of their own, some of them meanwhile.
    let writes = (last.meanwhile.writes() + last.meanwhile.events()) as f64 / n;
    let bare_writes = last.meanwhile.writes() as f64 / n;
    goals.goal(Goal {
        what: format!(
            "bulk create of {WEBHOOKS}: rate / what {writes:.2} writes each allow, Events among them"
        ),
        value: rate_ours * writes / ceiling,
        at_most: None,
        at_least: Some(0.7),
        scale: format!(
            "{rate_ours:.0}/s; the API server takes {ceiling:.0} status patches a second"
        ),
    });
    goals.goal(Goal {
        what: format!("the same with {bare_writes:.2} writes each, Events not counted"),
        value: rate_ours * bare_writes / ceiling,
        at_most: None,
        at_least: None,
        scale: format!("{:.2} reads each", last.meanwhile.gets() as f64 / n),
    });
    goals.goal(Goal {
        what: format!("bulk create of {WEBHOOKS}: chekt-operator / naive kube-rs reconciler"),
        value: rate_ours / rate_naive,
        at_most: None,
        at_least: Some(1.0),
        scale: format!(
            "{rate_ours:.0}/s / {rate_naive:.0}/s, which writes {:.2} times each",
            (naively.counted.writes() + naively.counted.events()) as f64 / n
        ),
    });
    if let Some(kopf) = kopf {
        goals.goal(Goal {
            what: format!("bulk create of {WEBHOOKS}: chekt-operator / kopf handler"),
            value: rate_ours / kopf.rate,
            at_most: None,
            at_least: Some(2.0),
            scale: format!(
                "{rate_ours:.0}/s / {:.0}/s, which writes {:.2} times each and {:.2} Events",
                kopf.rate,
                kopf.counted.writes() as f64 / n,
                kopf.counted.events() as f64 / n
            ),
        });
    }
    with_test(plane, goals).await
}

async fn ceilings_of(plane: &'static ControlPlane) -> anyhow::Result<f64> {
    let scene = Scene::new(plane, "ceiling", "60s").await?;
    scene.plant(0..WEBHOOKS, Shape::Given).await?;
    let eight = ceiling::measure(&scene, WEBHOOKS, 8).await?;
    let sixteen = ceiling::measure(&scene, WEBHOOKS, 16).await?;
    let applied = ceiling::measure_applied(&scene, WEBHOOKS, 16).await?;
    println!(
        "ceiling: {eight:.0}/s with 8 in flight, {sixteen:.0}/s with 16; applied instead of patched: {applied:.0}/s"
    );
    scene.delete_all().await?;
    Ok(eight.max(sixteen))
}

/// One contender makes all of them, on a scene of its own.
async fn turn(plane: &'static ControlPlane, who: Contender<'_>) -> anyhow::Result<Turn> {
    let scene = Scene::new(plane, "bulk", "60s").await?;
    scene.slow_posts(POST).await?;
    scene.plant(0..WEBHOOKS, Shape::Given).await?;
    let before = Counted::now(&scene.users.client).await?;
    let (ready, listed) = tokio::sync::oneshot::channel();
    let made = scene.watch_made(WEBHOOKS, LONGEST, ready);
    let start = async {
        listed.await?;
        who.start(&scene).await
    };
    let (running, made) = tokio::join!(start, made);
    let (running, (first, last)) = (running?, made?);
    let meanwhile = Counted::now(&scene.users.client).await?.since(&before);
    let all = crate::many::still(&scene, Duration::from_secs(2)).await?;
    let took = Duration::try_from(last.duration_since(first))?;
    #[allow(clippy::cast_precision_loss)]
    let rate = WEBHOOKS as f64 / took.as_secs_f64();
    let counted = all.since(&before);
    println!(
        "{}: {rate:.0}/s; until then {meanwhile}; in all {counted}",
        who.name()
    );
    let remote = scene.chekt.webhooks().await?.len();
    anyhow::ensure!(remote == WEBHOOKS, "{} made {remote} webhooks", who.name());
    running.kill()?;
    Ok(Turn {
        rate,
        meanwhile,
        counted,
    })
}

/// By default: the operator's own receiver, a generated secret and a test delivery.
#[allow(clippy::cast_precision_loss)]
async fn with_test(plane: &'static ControlPlane, goals: &mut Goals) -> anyhow::Result<()> {
    let scene = Scene::new(plane, "default", "60s").await?;
    let receiver = scene.receiver().await?;
    scene.plant(0..WITH_TEST, Shape::Default).await?;
    let before = Counted::now(&scene.users.client).await?;
    let _ours = scene
        .ours(&format!("http://{}", receiver.public()?), &[])
        .await?;
    scene.until_made(WITH_TEST, LONGEST).await?;
    let counted = crate::many::still(&scene, Duration::from_secs(5))
        .await?
        .since(&before);
    let n = WITH_TEST as f64;
    goals.goal(Goal {
        what: "Kubernetes writes per created webhook by default, with its test delivery; without Events"
            .to_owned(),
        value: counted.writes() as f64 / n,
        at_most: None,
        at_least: None,
        scale: format!(
            "{:.2} on the object by controller and receiver, {:.2} Events; {WITH_TEST} webhooks: {counted}",
            counted.on_objects() as f64 / n,
            counted.events() as f64 / n
        ),
    });
    Ok(())
}

/// The middle one, or the mean of the middle two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values[..] {
        [] => f64::NAN,
        _ if values.len() % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}
