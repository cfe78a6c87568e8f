//! Faults: how a call is made to go wrong, before it had an effect or after.
//!
//! A stall is not a refusal: the call goes on after it, whether or not anyone still waits for the answer. That
//! is what a request does that is still on its way when its client gives up.

use serde::{Deserialize, Serialize};

/// The calls that a fault may concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    Create,
    List,
    Patch,
    Delete,
    Test,
    Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Concerned {
    Create,
    List,
    Patch,
    Delete,
    Test,
    Token,
    Any,
}

/// Whether the effect of the call on the state has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    Before,
    After,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "an effect is \"drop\", \"truncate\", {\"status\": 500} (with html, code, message or retry_after) or {\"stall_ms\": 100}"
)]
pub enum Effect {
    /// `"drop"` or `"truncate"`.
    Word(Word),
    /// An answer with this status.
    Status(InPlace),
    /// A pause, after which the call goes on.
    Stall(Stall),
}

/// The effects that need no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// The connection closes without an answer.
    Drop,
    /// Half an answer, then the connection closes.
    Truncate,
}

/// An answer in place of the true one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InPlace {
    /// The HTTP status.
    pub status: u16,
    /// The answer of a proxy in between: HTML.
    #[serde(default)]
    pub html: bool,
    /// `error.code`; without it a usual one for the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// `error.message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Seconds of `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

/// A pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stall {
    /// Its length in milliseconds.
    pub stall_ms: u64,
}

/// One fault that was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    route: Concerned,
    when: When,
    effect: Effect,
    /// How many calls it still strikes; null: all, until it is cleared.
    #[serde(default)]
    times: Option<u32>,
}

/// The faults that are set.
#[derive(Clone, Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Sets these and no others.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn set(&mut self, faults: Vec<Fault>) -> Result<(), String> {
        for fault in &faults {
            if let Effect::Status(InPlace { status, .. }) = &fault.effect
                && !(200..600).contains(status)
            {
                return Err(format!("{status} is no status of an answer"));
            }
        }
        self.0 = faults;
        Ok(())
    }

    /// Those still set.
    pub fn all(&self) -> &[Fault] {
        &self.0
    }

    /// The fault that strikes this call, if any: the first that concerns it and is not used up.
    pub fn take(&mut self, route: Route, when: When) -> Option<Effect> {
        let index = self.0.iter().position(|fault| {
            fault.when == when && concerns(fault.route, route) && fault.times != Some(0)
        })?;
        let fault = self.0.get_mut(index)?;
        let effect = fault.effect.clone();
        if let Some(times) = &mut fault.times {
            *times -= 1;
            if *times == 0 {
                self.0.remove(index);
            }
        }
        Some(effect)
    }
}

fn concerns(concerned: Concerned, route: Route) -> bool {
    match concerned {
        Concerned::Any => true,
        Concerned::Create => route == Route::Create,
        Concerned::List => route == Route::List,
        Concerned::Patch => route == Route::Patch,
        Concerned::Delete => route == Route::Delete,
        Concerned::Test => route == Route::Test,
        Concerned::Token => route == Route::Token,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(list: serde_json::Value) -> Faults {
        let mut faults = Faults::default();
        faults.set(serde_json::from_value(list).unwrap()).unwrap();
        faults
    }

    #[test]
    fn a_fault_strikes_its_route_at_its_moment_as_often_as_it_says() {
        let mut faults = faults(json!([
            {"route": "create", "when": "after", "effect": "drop", "times": 2}
        ]));
        assert_eq!(faults.take(Route::List, When::After), None);
        assert_eq!(faults.take(Route::Create, When::Before), None);
        for _ in 0..2 {
            assert_eq!(
                faults.take(Route::Create, When::After),
                Some(Effect::Word(Word::Drop))
            );
        }
        assert_eq!(faults.take(Route::Create, When::After), None);
        assert!(faults.all().is_empty());
    }

    #[test]
    fn a_fault_without_a_count_stays() {
        let mut faults = faults(json!([
            {"route": "any", "when": "before", "effect": {"status": 503, "html": true}}
        ]));
        for _ in 0..3 {
            let effect = faults.take(Route::Token, When::Before);
            assert!(
                matches!(
                    effect,
                    Some(Effect::Status(InPlace {
                        status: 503,
                        html: true,
                        ..
                    }))
                ),
                "{effect:?}"
            );
        }
    }

    #[test]
    fn every_effect_is_read_and_a_slip_is_not() {
        for effect in [
            json!("drop"),
            json!("truncate"),
            json!({"status": 500}),
            json!({"stall_ms": 10}),
        ] {
            faults(json!([{"route": "list", "when": "before", "effect": effect}]));
        }
        for slip in [
            json!("dorp"),
            json!({"status": 500, "htlm": true}),
            json!({}),
        ] {
            let fault = json!({"route": "list", "when": "before", "effect": slip});
            assert!(
                serde_json::from_value::<Fault>(fault.clone()).is_err(),
                "{fault}"
            );
        }
    }
}
