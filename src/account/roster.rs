//! The roster: the account's remote webhooks as last listed, with its age and whether the list was complete.
//!
//! Two clocks tick here. A list tells what CHeKT held at about the moment it began; what we wrote ourselves
//! after that moment is younger than the list and stays. And because CHeKT may show a write only some seconds
//! later, our own definite writes are believed over a list for one settle time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::resources::remote::{RemoteWebhook, SETTLE, canonical};

/// What one list told.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Everything it showed.
    pub webhooks: Vec<RemoteWebhook>,
    /// How much of what there is that is.
    pub extent: Extent,
}

/// How much of what there is a list showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it, as of one moment.
    Whole,
    /// All of it, page by page: if somebody else deleted one meanwhile, another one that moved up to a page which had been
    /// read already was on none.
    Paged,
    /// A round number, and no other page to be had: all of it, or what fits on a page of a server that does not say so.
    Unpaged,
    /// There is more, and no way to it.
    Part,
}

#[derive(Clone, Debug)]
struct Entry {
    webhook: RemoteWebhook,
    /// Its url in the one spelling, so that a look-up parses nothing.
    url: Arc<str>,
    written: Option<Instant>,
}

/// The account's remote webhooks.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    entries: BTreeMap<String, Entry>,
    /// The url and the id of each entry: every pass looks one up, and there may be ten thousand.
    by_url: BTreeSet<(Arc<str>, String)>,
    removed: BTreeMap<String, Instant>,
    /// Entries that the last lists did not show, which were no proof.
    doubted: BTreeMap<String, Instant>,
    missing: BTreeMap<String, Instant>,
    first: Option<Instant>,
    last: Option<(Instant, bool)>,
}

/// What a list changed, so that only those concerned are woken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ids that came, went or look different.
    pub ids: Vec<String>,
    /// Urls of those, before and after.
    pub urls: Vec<String>,
}

impl Entry {
    fn new(webhook: RemoteWebhook, written: Option<Instant>) -> Self {
        let url = canonical(&webhook.url).into();
        Entry {
            webhook,
            url,
            written,
        }
    }
}

impl Roster {
    /// Takes in a list that began at `began`.
    ///
    /// One that was read page by page takes an entry away only with a second one, a settle time later. And one that may
    /// have been cut in silence was cut, if it lacks what CHeKT has confirmed to us and no list has shown since: it is
    /// no complete one then.
    pub fn listed(&mut self, listing: Listing, began: Instant) -> Changes {
        let mut changes = Changes::default();
        let believed = |at: Instant| at + SETTLE > began;
        self.removed.retain(|_, at| believed(*at));
        let mut fresh: BTreeMap<String, Entry> = BTreeMap::new();
        for webhook in listing.webhooks {
            if !webhook.is_deleted() && !self.removed.contains_key(&webhook.id) {
                fresh.insert(webhook.id.clone(), Entry::new(webhook, None));
            }
        }
        let shown: BTreeSet<String> = fresh.keys().cloned().collect();
        let complete = listing.extent != Extent::Part
            && !(listing.extent == Extent::Unpaged
                && self.entries.iter().any(|(id, old)| {
                    !fresh.contains_key(id) && old.written.is_some_and(|at| !believed(at))
                }));
        for (id, old) in &self.entries {
            if old.written.is_some_and(believed) {
                fresh.insert(id.clone(), old.clone());
                continue;
            }
            match fresh.get(id) {
                Some(new) if new.webhook == old.webhook => {}
                Some(new) => changes.note(id, &[&old.webhook.url, &new.webhook.url]),
                None if complete => {
                    let since = *self.doubted.get(id).unwrap_or(&began);
                    if listing.extent == Extent::Paged && began < since + SETTLE {
                        self.doubted.insert(id.clone(), since);
                        fresh.insert(id.clone(), old.clone());
                        continue;
                    }
                    self.missing.insert(id.clone(), since);
                    changes.note(id, &[&old.webhook.url]);
                }
                None => {
                    fresh.insert(id.clone(), old.clone());
                }
            }
        }
        for (id, new) in &fresh {
            if !self.entries.contains_key(id) {
                changes.note(id, &[&new.webhook.url]);
            }
        }
        if complete {
            self.first.get_or_insert(began);
        }
        self.doubted
            .retain(|id, _| fresh.contains_key(id) && !shown.contains(id));
        self.missing.retain(|id, _| !fresh.contains_key(id));
        let named = fresh.iter().map(|(id, e)| (Arc::clone(&e.url), id.clone()));
        self.by_url = named.collect();
        self.entries = fresh;
        self.last = Some((began, complete));
        changes.urls.sort_unstable();
        changes.urls.dedup();
        changes
    }

    /// Takes in what CHeKT answered to a write of ours.
    pub fn wrote(&mut self, webhook: RemoteWebhook, at: Instant) {
        let id = webhook.id.clone();
        self.removed.remove(&id);
        self.doubted.remove(&id);
        self.missing.remove(&id);
        self.take(&id);
        let entry = Entry::new(webhook, Some(at));
        self.by_url.insert((Arc::clone(&entry.url), id.clone()));
        self.entries.insert(id, entry);
    }

    /// Takes in that CHeKT confirmed a deletion.
    pub fn removed(&mut self, id: &str, at: Instant) {
        self.take(id);
        self.doubted.remove(id);
        self.missing.remove(id);
        self.removed.insert(id.to_owned(), at);
    }

    /// Takes in that CHeKT knows nothing of an id that a list has shown. Only the next lists tell for certain.
    pub fn vanished(&mut self, id: &str, at: Instant) {
        self.take(id);
        self.doubted.remove(id);
        self.missing.insert(id.to_owned(), at);
    }

    fn take(&mut self, id: &str) {
        if let Some(entry) = self.entries.remove(id) {
            self.by_url.remove(&(entry.url, id.to_owned()));
        }
    }

    /// When the last complete list began; `None` before the first and after an incomplete one.
    #[must_use]
    pub fn complete_since(&self) -> Option<Instant> {
        self.last
            .filter(|(_, complete)| *complete)
            .map(|(began, _)| began)
    }

    /// The remote webhook of one id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&RemoteWebhook> {
        self.entries.get(id).map(|e| &e.webhook)
    }

    /// Since which list an id has been absent; `None` while it is there or nothing complete was ever listed.
    #[must_use]
    pub fn absent_since(&self, id: &str) -> Option<Instant> {
        if self.entries.contains_key(id) {
            return None;
        }
        self.missing.get(id).copied().or(self.first)
    }

    /// Every remote webhook with a url, which is given in the spelling of [`canonical`].
    pub fn with_url(&self, url: &str) -> impl Iterator<Item = &RemoteWebhook> {
        self.by_url
            .range((Arc::from(url), String::new())..)
            .take_while(move |(known, _)| **known == *url)
            .filter_map(|(_, id)| self.get(id))
    }

    /// Every remote webhook, by id.
    pub fn iter(&self) -> impl Iterator<Item = &RemoteWebhook> {
        self.entries.values().map(|e| &e.webhook)
    }
}

impl Changes {
    fn note(&mut self, id: &str, urls: &[&str]) {
        self.ids.push(id.to_owned());
        let urls = urls.iter().map(|url| (*url).to_owned());
        self.urls.extend(urls);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn webhook(id: &str, url: &str) -> RemoteWebhook {
        RemoteWebhook {
            id: id.to_owned(),
            url: url.to_owned(),
            events: vec!["alarm.triggered".to_owned()],
            state: Some("active".to_owned()),
            created_at: None,
        }
    }

    fn complete(webhooks: &[RemoteWebhook]) -> Listing {
        Listing {
            webhooks: webhooks.to_vec(),
            extent: Extent::Whole,
        }
    }

    fn list_of(extent: Extent, webhooks: &[RemoteWebhook]) -> Listing {
        Listing {
            extent,
            ..complete(webhooks)
        }
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_list_that_lags_does_not_hide_what_we_just_created() {
        let start = Instant::now();
        let mut roster = Roster::default();
        roster.wrote(webhook("a", "https://a"), start);
        assert_eq!(roster.listed(complete(&[]), start + S), Changes::default());
        assert!(roster.get("a").is_some());
        roster.listed(complete(&[]), start + SETTLE + S);
        assert!(roster.get("a").is_none());
        assert_eq!(roster.absent_since("a"), Some(start + SETTLE + S));
    }

    #[test]
    fn a_list_that_lags_does_not_bring_back_what_we_just_deleted() {
        let start = Instant::now();
        let mut roster = Roster::default();
        roster.listed(complete(&[webhook("a", "https://a")]), start);
        roster.removed("a", start + S);
        roster.listed(complete(&[webhook("a", "https://a")]), start + 2 * S);
        assert!(roster.get("a").is_none());
        let changes = roster.listed(
            complete(&[webhook("a", "https://a")]),
            start + SETTLE + 2 * S,
        );
        assert!(roster.get("a").is_some());
        assert_eq!(changes.ids, ["a"]);
    }

    #[test]
    fn a_webhook_that_is_shown_as_deleted_is_as_absent_as_one_that_is_not_shown() {
        let start = Instant::now();
        let mut roster = Roster::default();
        roster.listed(complete(&[webhook("a", "https://a")]), start);
        let gone = RemoteWebhook {
            state: Some("Deleted".to_owned()),
            ..webhook("a", "https://a")
        };
        roster.listed(complete(&[gone]), start + S);
        assert!(roster.get("a").is_none());
        assert_eq!(roster.absent_since("a"), Some(start + S));
    }

    #[test]
    fn an_incomplete_list_takes_nothing_away() {
        let start = Instant::now();
        let mut roster = Roster::default();
        roster.listed(complete(&[webhook("a", "https://a")]), start);
        roster.listed(list_of(Extent::Part, &[]), start + SETTLE);
        assert!(roster.get("a").is_some());
        assert_eq!(roster.complete_since(), None);
    }

    #[test]
    fn one_list_in_pages_takes_nothing_away_and_a_second_one_does() {
        let start = Instant::now();
        let (a, b) = (webhook("a", "https://a"), webhook("b", "https://b"));
        let mut roster = Roster::default();
        let both = list_of(Extent::Paged, &[a.clone(), b.clone()]);
        let one = list_of(Extent::Paged, &[a]);
        roster.listed(both.clone(), start);
        // Somebody else deleted another one while the pages were read, and b was on none of them.
        assert_eq!(roster.listed(one.clone(), start + S), Changes::default());
        assert!(roster.get("b").is_some() && roster.absent_since("b").is_none());
        roster.listed(both, start + 2 * S);
        // Seen again: the doubt begins anew.
        roster.listed(one.clone(), start + 3 * S);
        roster.listed(one.clone(), start + SETTLE + S);
        assert!(roster.get("b").is_some());
        let changes = roster.listed(one, start + SETTLE + 3 * S);
        assert_eq!(changes.ids, ["b"]);
        assert_eq!(roster.absent_since("b"), Some(start + 3 * S));
    }

    #[test]
    fn a_round_list_that_lacks_what_chekt_has_confirmed_was_cut() {
        let start = Instant::now();
        let (a, b) = (webhook("a", "https://a"), webhook("b", "https://b"));
        let mut roster = Roster::default();
        let cut = || list_of(Extent::Unpaged, std::slice::from_ref(&a));
        roster.listed(cut(), start);
        assert_eq!(roster.complete_since(), Some(start));
        roster.wrote(b.clone(), start);
        let later = start + SETTLE + S;
        roster.listed(cut(), later);
        assert_eq!(roster.complete_since(), None);
        assert!(roster.get("b").is_some());
        // Shown once, it may go like any other.
        roster.listed(list_of(Extent::Unpaged, &[a.clone(), b]), later + S);
        roster.listed(cut(), later + 2 * S);
        assert_eq!(roster.complete_since(), Some(later + 2 * S));
        assert_eq!(roster.absent_since("b"), Some(later + 2 * S));
    }

    #[test]
    fn a_change_names_the_id_and_both_urls() {
        let start = Instant::now();
        let mut roster = Roster::default();
        roster.listed(
            complete(&[webhook("a", "https://a"), webhook("b", "https://b")]),
            start,
        );
        let changes = roster.listed(
            complete(&[webhook("a", "https://c"), webhook("b", "https://b")]),
            start + S,
        );
        assert_eq!(changes.ids, ["a"]);
        assert_eq!(changes.urls, ["https://a", "https://c"]);
        assert_eq!(
            roster.listed(
                complete(&[webhook("a", "https://c"), webhook("b", "https://b")]),
                start + 2 * S
            ),
            Changes::default()
        );
    }

    #[test]
    fn a_url_finds_what_has_it_now_in_whatever_way_that_became_known() {
        let start = Instant::now();
        let mut roster = Roster::default();
        let found = |roster: &Roster, url: &str| {
            let ids: Vec<_> = roster.with_url(url).map(|w| w.id.clone()).collect();
            ids.join(" ")
        };
        let (one, two) = ("https://a/1", "https://a/2");
        roster.listed(
            complete(&[webhook("b", one), webhook("a", "https://A/1")]),
            start,
        );
        assert_eq!(found(&roster, one), "a b");
        assert_eq!(found(&roster, "https://a/"), "", "the beginning of another");
        roster.wrote(webhook("a", two), start + S);
        assert_eq!(
            (found(&roster, one), found(&roster, two)),
            ("b".into(), "a".into())
        );
        roster.removed("b", start + S);
        roster.vanished("a", start + S);
        assert_eq!(
            (found(&roster, one), found(&roster, two)),
            (String::new(), String::new())
        );
        roster.listed(complete(&[webhook("c", two)]), start + SETTLE + 2 * S);
        assert_eq!(found(&roster, two), "c");
    }

    #[test]
    fn an_id_never_seen_is_absent_since_the_first_complete_list() {
        let start = Instant::now();
        let mut roster = Roster::default();
        assert_eq!(roster.absent_since("x"), None);
        roster.listed(complete(&[]), start);
        roster.listed(complete(&[]), start + S);
        assert_eq!(roster.absent_since("x"), Some(start));
    }
}
