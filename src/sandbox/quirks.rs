//! Quirks: what the documentation of the partner API leaves open or contradicts, each as a switch.
//!
//! The default of every switch is the reading that the documents support best. A client is sound only when it
//! survives all of them, so tests turn them one by one. Codes may be written as numbers or as strings.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Declares an enum of words as they are written in JSON; the first is the default.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $(#[$first_doc:meta])* $first:ident = $first_word:literal, $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $(#[$first_doc])*
            #[default]
            #[serde(rename = $first_word)]
            $first,
            $($(#[$variant_doc])*
            #[serde(rename = $word)]
            $variant,)*
        }
    };
}

words! {
    /// What a create answers.
    CreateStatus { Created = "201", Ok = "200",
        /// 202 and no body: the id can be learned from a list only.
        Accepted = "202", }
}
words! {
    /// What a create does whose url is that of a live webhook.
    DuplicateUrl { Allow = "allow", Conflict = "409", Unprocessable = "422",
        /// 200 with the webhook that is there already, left as it was.
        Existing = "existing", }
}
words! {
    /// What reading one webhook answers; the documents do not have it.
    GetOne { NotFound = "404", MethodNotAllowed = "405", Object = "object",
        /// The object under `data`.
        Data = "data", }
}
words! {
    /// The key of a webhook's id.
    IdKey { WebhookId = "webhook_id", Id = "id", }
}
words! {
    /// How `created_at` is spelled; the samples of CHeKT's APIs have all three.
    CreatedAt { Seconds = "seconds", Milliseconds = "milliseconds",
        /// `2025-01-01 00:00:00`
        Space = "space", }
}
words! {
    /// How one webhook too many is refused.
    LimitStatus { Forbidden = "403", Conflict = "409", Unprocessable = "422", }
}
words! {
    /// How a signature is written.
    SignatureStyle { LowerHex = "lower_hex", UpperHex = "upper_hex",
        /// Without `sha256=`.
        BareHex = "bare_hex",
        /// Two headers: one of an unknown secret, then the right one.
        Doubled = "doubled",
        /// No header.
        Absent = "absent", }
}
words! {
    /// How a url is told back.
    UrlEcho { AsSent = "as_sent", Normalised = "normalised", }
}
words! {
    /// How events are told back.
    EventsEcho { All = "all", DropUnknown = "drop_unknown", Reorder = "reorder", }
}
words! {
    /// What becomes of event names that are not in the catalogue, and of an empty list.
    UnknownEvents { Refuse = "422", Accept = "accept", Drop = "drop", }
}
words! {
    /// What a list is wrapped in.
    ListShape { Bare = "bare", Data = "data", Webhooks = "webhooks", DataWebhooks = "data_webhooks", }
}
words! {
    /// How a list is cut into pages. A bare array has no room for `total_count` or a cursor: with `page` and
    /// `cursor` it is wrapped as with `data`.
    ListPaging { None = "none",
        /// `page` and `per_page`, told with `total_count`.
        Page = "page",
        /// `page` and `per_page`, told with nothing at all.
        PageWithoutTotal = "page_without_total",
        /// `cursor`, told with `next_cursor` and `has_more`.
        Cursor = "cursor",
        /// `page` and `per_page`, told by a Link header.
        Link = "link",
        /// The first page, whatever is asked for, and no sign that there is more.
        CappedSilently = "capped_silently", }
}
words! {
    /// The order of a list.
    ListOrder { Creation = "creation", Random = "random", }
}
words! {
    /// What another client does to the pages of every other list, the first of them included, between its first page
    /// and its second.
    ListChurn { None = "none",
        /// It deletes a webhook of the first page: the first of the second page moves up and is on no page at all.
        Skip = "skip",
        /// It adds one at the beginning: the last of the first page moves down and is on two pages.
        Repeat = "repeat", }
}
words! {
    /// Whether the events of a PATCH are the whole list or additions to it.
    PatchEvents { Replace = "replace", Merge = "merge", }
}
words! {
    /// What a PATCH answers.
    PatchAnswer { Object = "object", NoContent = "204", ChangedFields = "changed_fields",
        /// The whole object as it was before.
        Stale = "stale", }
}
words! {
    /// What a DELETE answers.
    DeleteAnswer { NoContent = "204", Ok = "200", Accepted = "202", }
}
words! {
    /// What a DELETE of something deleted answers.
    SecondDelete { NotFound = "404", NoContent = "204", }
}
words! {
    /// What a test answers.
    TestAnswer { Accepted = "202", Ok = "200", NoContent = "204",
        /// 202, but 409 while the webhook is disabled.
        ConflictWhenDisabled = "409_when_disabled", }
}
words! {
    /// What makes a disabled webhook active again.
    Reenable { PatchStatus = "patch_status", AnyPatch = "any_patch", OnlyRecreate = "only_recreate", }
}
words! {
    /// What becomes of events while a webhook is disabled.
    WhileDisabled { Drop = "drop",
        /// They are kept and sent all at once when it is active again.
        Queue = "queue", }
}
words! {
    /// Which answers of a receiver count as success.
    Success { Only200 = "only_200", Any2xx = "any_2xx", }
}
words! {
    /// Whether a retry repeats the bytes or stamps and signs them anew.
    RetryBody { Identical = "identical", FreshTimestamp = "fresh_timestamp", }
}
words! {
    /// How the JSON of a delivery is spelled.
    BodyStyle { Compact = "compact", Pretty = "pretty", }
}
words! {
    /// What becomes of `Idempotency-Key`.
    IdempotencyMode { Honoured = "honoured", Ignored = "ignored", CachesErrors = "caches_errors",
        /// Honoured, and 409 while the first call under the same key has no answer yet.
        ConflictInFlight = "409_in_flight", }
}
words! {
    /// Whether the account has the webhooks API at all.
    Collection { Present = "present", NotFound = "404", MethodNotAllowed = "405", NotImplemented = "501", }
}
words! {
    /// Whether the static token opens the partner routes, or only tokens of `/oauth/token` do.
    StaticToken { Accept = "accept", Refuse = "refuse", }
}
words! {
    /// How an error is told.
    ErrorStyle { Full = "full", NoRequestId = "no_request_id",
        /// The sentence stands under `detail`.
        Detail = "detail",
        /// `{"error": "message"}`
        String = "string",
        /// A status and nothing else.
        Empty = "empty", }
}
words! {
    /// How a 429 says when to come back.
    RetryAfter { Seconds = "seconds", Date = "date", Absent = "absent", }
}

/// All the switches.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own and not a state among others"
)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quirks {
    pub create_status: CreateStatus,
    pub duplicate_url: DuplicateUrl,
    pub get_one: GetOne,
    pub id_key: IdKey,
    pub created_at: CreatedAt,
    /// Most webhooks; 0 for no limit.
    pub webhook_limit: usize,
    pub webhook_limit_status: LimitStatus,
    /// Fewest bytes of a secret.
    pub secret_min: usize,
    /// White space around a secret is cut off in silence, so that signatures are others than expected.
    pub secret_trimmed: bool,
    pub url_echo: UrlEcho,
    pub events_echo: EventsEcho,
    pub unknown_events: UnknownEvents,
    /// Event names that are dropped in silence, as of an account without the scope for them.
    pub withheld_events: Vec<String>,
    pub list_shape: ListShape,
    pub list_paging: ListPaging,
    /// Webhooks on a page: what is given without `per_page`, and at most with it.
    pub page_size: usize,
    pub list_order: ListOrder,
    pub list_churn: ListChurn,
    /// How long a list does not show a new webhook.
    pub create_visible_after_ms: u64,
    /// How long a list still shows a changed webhook as it was before.
    pub changes_listed_after_ms: u64,
    /// How long a list still shows a deleted webhook, with status `deleted`.
    pub deleted_listed_for_ms: u64,
    /// Ids of new webhooks are numbers.
    pub numeric_ids: bool,
    pub patch_events: PatchEvents,
    /// Fields (`url`, `events`, `secret`, `status`) that a PATCH leaves as they are, and answers 200.
    pub patch_ignores: Vec<String>,
    /// Fields that a PATCH may not hold: 422.
    pub patch_refuses: Vec<String>,
    pub patch_answer: PatchAnswer,
    pub delete_answer: DeleteAnswer,
    pub second_delete: SecondDelete,
    pub test_answer: TestAnswer,
    /// Failed test deliveries count towards disabling.
    pub tests_count: bool,
    /// The status of a webhook that is disabled from now on.
    pub disabled_word: String,
    /// The consecutive failed attempt that disables; 0 for never.
    pub disables_after: u32,
    /// A success starts the count of failures anew.
    pub success_resets: bool,
    pub reenable: Reenable,
    pub while_disabled: WhileDisabled,
    pub success: Success,
    pub retry_body: RetryBody,
    pub body_style: BodyStyle,
    pub signature_style: SignatureStyle,
    /// Further deliveries of the same bytes after a success.
    pub duplicate_deliveries: u32,
    pub idempotency: IdempotencyMode,
    pub collection: Collection,
    pub static_token_on_partner: StaticToken,
    /// Life of a token in seconds; null: not told, and an hour.
    pub token_expires_in: Option<u64>,
    pub error_style: ErrorStyle,
    pub retry_after: RetryAfter,
    /// Calls a minute, 0 for no limit; null: what the flag says.
    pub requests_per_minute: Option<u32>,
    /// Calls at once; null: what the flag says.
    pub burst: Option<u32>,
}

impl Default for Quirks {
    fn default() -> Self {
        Quirks {
            create_status: CreateStatus::default(),
            duplicate_url: DuplicateUrl::default(),
            get_one: GetOne::default(),
            id_key: IdKey::default(),
            created_at: CreatedAt::default(),
            webhook_limit: 0,
            webhook_limit_status: LimitStatus::default(),
            secret_min: 1,
            secret_trimmed: false,
            url_echo: UrlEcho::default(),
            events_echo: EventsEcho::default(),
            unknown_events: UnknownEvents::default(),
            withheld_events: Vec::new(),
            list_shape: ListShape::default(),
            list_paging: ListPaging::default(),
            page_size: 20,
            list_order: ListOrder::default(),
            list_churn: ListChurn::default(),
            create_visible_after_ms: 0,
            changes_listed_after_ms: 0,
            deleted_listed_for_ms: 0,
            numeric_ids: false,
            patch_events: PatchEvents::default(),
            patch_ignores: Vec::new(),
            patch_refuses: Vec::new(),
            patch_answer: PatchAnswer::default(),
            delete_answer: DeleteAnswer::default(),
            second_delete: SecondDelete::default(),
            test_answer: TestAnswer::default(),
            tests_count: false,
            disabled_word: "disabled".to_owned(),
            disables_after: 3,
            success_resets: true,
            reenable: Reenable::default(),
            while_disabled: WhileDisabled::default(),
            success: Success::default(),
            retry_body: RetryBody::default(),
            body_style: BodyStyle::default(),
            signature_style: SignatureStyle::default(),
            duplicate_deliveries: 0,
            idempotency: IdempotencyMode::default(),
            collection: Collection::default(),
            static_token_on_partner: StaticToken::default(),
            token_expires_in: Some(3600),
            error_style: ErrorStyle::default(),
            retry_after: RetryAfter::default(),
            requests_per_minute: None,
            burst: None,
        }
    }
}

/// Why a change of quirks is refused.
#[derive(Debug, thiserror::Error)]
pub enum QuirksError {
    /// Not an object.
    #[error("quirks are a JSON object of switches")]
    Shape,
    /// An unknown switch or an unknown word.
    #[error("{0}")]
    Content(#[from] serde_json::Error),
    /// A number or a word that would make no sense.
    #[error("{0}")]
    Senseless(&'static str),
}

impl Quirks {
    /// These quirks with some of them changed.
    ///
    /// # Errors
    /// [`QuirksError`] when a switch or its value is unknown; nothing is changed then.
    pub fn with(&self, change: Value) -> Result<Quirks, QuirksError> {
        let Value::Object(change) = change else {
            return Err(QuirksError::Shape);
        };
        let Value::Object(mut merged) = serde_json::to_value(self)? else {
            return Err(QuirksError::Shape);
        };
        for (name, mut value) in change {
            // A code such as 201 reads as well without quotes.
            if let (Value::Number(code), Some(Value::String(_))) = (&value, merged.get(&name)) {
                value = Value::String(code.to_string());
            }
            merged.insert(name, value);
        }
        let quirks: Quirks = serde_json::from_value(Value::Object(merged))?;
        if quirks.page_size == 0 {
            return Err(QuirksError::Senseless("page_size is at least 1"));
        }
        if quirks.secret_min == 0 {
            return Err(QuirksError::Senseless("secret_min is at least 1"));
        }
        if quirks.disabled_word == "active" {
            return Err(QuirksError::Senseless("disabled_word is not \"active\""));
        }
        if let Some(field) = quirks
            .patch_ignores
            .iter()
            .chain(&quirks.patch_refuses)
            .find(|field| !matches!(field.as_str(), "url" | "events" | "secret" | "status"))
        {
            tracing::debug!(field, "unknown field in patch_ignores or patch_refuses");
            return Err(QuirksError::Senseless(
                "patch_ignores and patch_refuses hold only url, events, secret and status",
            ));
        }
        Ok(quirks)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_partial_change_leaves_the_rest() {
        let quirks = Quirks::default()
            .with(json!({"create_status": 202, "patch_ignores": ["url"]}))
            .unwrap()
            .with(json!({"list_shape": "data_webhooks"}))
            .unwrap();
        assert_eq!(quirks.create_status, CreateStatus::Accepted);
        assert_eq!(quirks.patch_ignores, ["url"]);
        assert_eq!(quirks.list_shape, ListShape::DataWebhooks);
        assert_eq!(quirks.page_size, 20);
    }

    #[test]
    fn an_unknown_switch_or_word_is_refused_by_name() {
        let unknown = Quirks::default()
            .with(json!({"create_statsu": 201}))
            .unwrap_err();
        assert!(unknown.to_string().contains("create_statsu"), "{unknown}");
        let word = Quirks::default()
            .with(json!({"create_status": 299}))
            .unwrap_err();
        assert!(word.to_string().contains("299"), "{word}");
        assert!(Quirks::default().with(json!({"page_size": 0})).is_err());
        for fields in ["patch_ignores", "patch_refuses"] {
            let change = json!({fields: ["name"]});
            assert!(Quirks::default().with(change).is_err(), "{fields}");
        }
        assert!(Quirks::default().with(json!([])).is_err());
    }

    #[test]
    fn null_goes_back_to_what_the_flag_says() {
        let quirks = Quirks::default()
            .with(json!({"requests_per_minute": 5}))
            .unwrap();
        assert_eq!(quirks.requests_per_minute, Some(5));
        let quirks = quirks.with(json!({"requests_per_minute": null})).unwrap();
        assert_eq!(quirks.requests_per_minute, None);
    }
}
