//! Orphans: remote webhooks that were let go of without a confirmed deletion, and when that may be.
//!
//! Letting go is the last resort: whoever does it leaves a webhook behind that goes on sending alarms. So an outage, of
//! whatever length, is no reason; only credentials are that are gone for good. Which words say so is decided here and
//! nowhere else.

use crate::resources::account::{Orphan, OrphanReason};
use crate::resources::reasons::Reason;

/// How many orphans an account keeps on record: an entry has some 300 bytes, and a status is read and written whole.
pub const MOST: usize = 100;

/// Whether a problem of an account means that its credentials are gone for good, so that nobody here can ever delete its
/// webhooks at CHeKT.
///
/// They are when there is no account or no usable Secret, and when CHeKT refuses what the Secret holds. Everything else
/// may pass without anybody writing anything here:
///
/// - `Unreachable`, `Unreadable` and `ListIncomplete` are what an outage looks like. Throttling is no problem at all.
/// - `WebhooksNotAvailable` (404, 405 or 501 on the collection) is what a proxy says during an outage, too.
/// - `NotPermitted` (403) is said to credentials that CHeKT knows: an address that is not on its list, a right that its
///   staff can give back.
/// - `BaseUrlNotUsable` is a slip in the spec, and the credentials are there.
/// - A refusal by *us* (`AccountNotAllowed`, `AccountChanged`) does not hold for what was made with permission.
#[must_use]
pub fn loss(problem: Reason) -> Option<OrphanReason> {
    match problem {
        Reason::AccountNotFound => Some(OrphanReason::AccountNotFound),
        Reason::SecretNotFound => Some(OrphanReason::SecretNotFound),
        Reason::SecretNotUsable => Some(OrphanReason::SecretNotUsable),
        Reason::CredentialsRejected => Some(OrphanReason::CredentialsRejected),
        // What is added later is no reason to let go of anything until somebody says so here.
        _ => None,
    }
}

/// The list with one more: the oldest go where there is no room. One that is there already stays as it is, since a pass
/// that was cut off does its last step again.
#[must_use]
pub fn with(orphans: &[Orphan], new: Orphan) -> Vec<Orphan> {
    let mut all = orphans.to_vec();
    if all.iter().any(|o| o.id == new.id) {
        return all;
    }
    all.push(new);
    all.sort_by(|a, b| (a.since.0, &a.id).cmp(&(b.since.0, &b.id)));
    let surplus = all.len().saturating_sub(MOST);
    all.drain(..surplus);
    all
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn orphan(id: &str, second: i64) -> Orphan {
        Orphan {
            id: id.to_owned(),
            url: "https://a.example".to_owned(),
            since: Time(Timestamp::from_second(second).unwrap()),
            reason: OrphanReason::SecretNotFound,
        }
    }

    #[test]
    fn no_outage_and_no_refusal_of_ours_is_a_reason_to_let_go() {
        let lost: Vec<&str> = Reason::ALL
            .iter()
            .filter(|reason| loss(**reason).is_some())
            .map(|reason| reason.as_str())
            .collect();
        assert_eq!(
            lost,
            [
                "AccountNotFound",
                "SecretNotFound",
                "SecretNotUsable",
                "CredentialsRejected"
            ]
        );
    }

    #[test]
    fn one_that_is_on_record_keeps_its_time() {
        let all = with(&[orphan("a", 1)], orphan("a", 9));
        assert_eq!(all, [orphan("a", 1)]);
    }

    #[test]
    fn of_too_many_the_newest_are_kept() {
        let mut all = Vec::new();
        for second in 0..=i64::try_from(MOST).unwrap() {
            all = with(&all, orphan(&format!("w{second}"), second));
        }
        assert_eq!(all.len(), MOST);
        assert_eq!(all[0].id, "w1");
        assert_eq!(all[MOST - 1].id, format!("w{MOST}"));
    }
}
