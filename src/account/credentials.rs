//! The token of an account: how long it is used, and when the next one is fetched.
//!
//! It is renewed at four fifths of its life, so that no request travels with one that ends on the way, and it is
//! dropped when CHeKT refuses it. The time is handed in.

use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// How long a token is believed to live when neither the answer nor the token says so. CHeKT's pages say
/// "about an hour" and "every 24 hours"; this is below both.
const UNSAID_LIFE: Duration = Duration::from_secs(50 * 60);

/// The longest life that is believed. A token that ends before is refused once and then replaced.
const LONGEST_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long a token is used at least: a life of nothing must not make a fetch of every request.
const SHORTEST_USE: Duration = Duration::from_secs(1);

/// The share of its life after which a token is renewed, in percent.
const RENEW_AT: u32 = 80;

/// The token that is held, if one is.
#[derive(Debug, Default)]
pub struct TokenCache(Option<(SecretString, Instant)>);

impl TokenCache {
    /// The token, while it need not be renewed.
    #[must_use]
    pub fn good(&self, now: Instant) -> Option<&SecretString> {
        let held = self.0.as_ref().filter(|(_, renew_at)| now < *renew_at);
        held.map(|(token, _)| token)
    }

    /// Takes in a token that was asked for at `asked`: its life began no later. `expires_in` is what the answer says
    /// of it.
    pub fn store(&mut self, token: SecretString, expires_in: &Value, asked: Instant) {
        let life = life(expires_in, token.expose_secret()).min(LONGEST_LIFE);
        let renew_at = asked + (life * RENEW_AT / 100).max(SHORTEST_USE);
        self.0 = Some((token, renew_at));
    }

    /// Drops a token that CHeKT has refused, unless a newer one has taken its place.
    pub fn drop_refused(&mut self, refused: &SecretString) {
        let is_held =
            |(held, _): &(SecretString, Instant)| held.expose_secret() == refused.expose_secret();
        if self.0.as_ref().is_some_and(is_held) {
            self.0 = None;
        }
    }
}

/// How long a token lives: as the answer says, else as the token itself says, else [`UNSAID_LIFE`].
fn life(expires_in: &Value, token: &str) -> Duration {
    let said = match expires_in {
        Value::Number(number) => number
            .as_u64()
            .map(Duration::from_secs)
            .or_else(|| Duration::try_from_secs_f64(number.as_f64()?).ok()),
        Value::String(text) => text.trim().parse().ok().map(Duration::from_secs),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    if let Some(said) = said {
        return said;
    }
    let claims = token
        .split('.')
        .nth(1)
        .and_then(|part| BASE64URL_NOPAD.decode(part.as_bytes()).ok())
        .and_then(|json| serde_json::from_slice::<Value>(&json).ok())
        .unwrap_or_default();
    match (claims["exp"].as_u64(), claims["iat"].as_u64()) {
        (Some(exp), Some(iat)) if exp > iat => Duration::from_secs(exp - iat),
        _ => UNSAID_LIFE,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life() {
        let claims = BASE64URL_NOPAD.encode(br#"{"iat":1000,"exp":87400}"#);
        let telling = format!("h.{claims}.s");
        let start = Instant::now();
        for (expires_in, token, used_for) in [
            (json!(5), "opaque", 4),
            (json!(86_400), "opaque", 69_120),
            (json!(3600.5), "opaque", 2_880),
            (json!("3600"), "opaque", 2_880),
            // The answer knows better than the token.
            (json!(5), telling.as_str(), 4),
            (Value::Null, telling.as_str(), 69_120),
            (Value::Null, "opaque", 2_400),
            (json!("soon"), "opaque", 2_400),
            (json!(-5), "opaque", 2_400),
            (json!([]), "not.json.here", 2_400),
            // Absurd ones.
            (json!(0), "opaque", 1),
            (json!(u64::MAX), "opaque", 483_840),
            (json!(1e300), "opaque", 2_400),
        ] {
            let mut cache = TokenCache::default();
            cache.store(token.into(), &expires_in, start);
            let at = |second| cache.good(start + Duration::from_secs(second)).is_some();
            assert!(at(0) && at(used_for - 1), "{expires_in}: dropped too early");
            assert!(!at(used_for + 1), "{expires_in}: used too long");
        }
    }

    #[test]
    fn a_refused_token_is_dropped_once_and_its_successor_stays() {
        let now = Instant::now();
        let (old, new) = (SecretString::from("old"), SecretString::from("new"));
        let mut cache = TokenCache::default();
        cache.store(old.clone(), &json!(3600), now);
        cache.drop_refused(&old);
        assert!(cache.good(now).is_none());
        cache.store(new, &json!(3600), now);
        // Fifty requests were refused with the old one; the others find that out late.
        cache.drop_refused(&old);
        assert!(cache.good(now).is_some());
    }
}
