//! Reasons: the CamelCase words of conditions, as one enum, so that a typo does not compile and the reference
//! can list them all with what they mean, whose they are and what to do about them.

/// Whose conditions have a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of accounts.
    Account,
    /// Those of webhooks.
    Webhook,
    /// Those of both.
    Both,
}

impl Whose {
    /// The kind as it is written in a manifest, or `both`.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Whose::Account => "ChektAccount",
            Whose::Webhook => "ChektWebhook",
            Whose::Both => "both",
        }
    }
}

macro_rules! reasons {
    ($($name:ident, $whose:ident: $meaning:literal, $remedy:literal,)*) => {
        /// Why a condition is as it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $(#[doc = $meaning] $name,)*
        }

        impl Reason {
            /// Every reason, in the order of the reference.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The word as it stands in a condition.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)* }
            }

            /// What it means, for people.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$name => $meaning,)* }
            }

            /// What a person does about it, in Markdown. The message of a condition says more, since it knows the case.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Reason::$name => $remedy,)* }
            }

            /// Whose conditions have it.
            #[must_use]
            pub fn whose(self) -> Whose {
                match self { $(Reason::$name => Whose::$whose,)* }
            }
        }
    };
}

reasons! {
    InSync, Webhook:
        "The remote webhook is as written.",
        "Nothing.",
    Active, Webhook:
        "CHeKT says that the remote webhook is active.",
        "Nothing.",
    Verified, Webhook:
        "A test delivery came back through the receiver under the current secret.",
        "Nothing.",
    Connected, Account:
        "The account's webhooks can be listed.",
        "Nothing.",
    Working, Webhook:
        "Work is under way.",
        "Nothing: it ends by itself.",
    Queued, Webhook:
        "The account's budget of requests is used up for now, and others come first.",
        "Nothing: its turn comes. If that takes too long, raise `spec.rateLimit` of the account to what CHeKT allows you.",
    Settling, Webhook:
        "The outcome of an earlier request is not known yet; the operator waits before it looks again.",
        "Nothing: it goes on after some seconds.",
    Deleting, Webhook:
        "The remote webhook is being removed before the object goes.",
        "Nothing, as long as the message does not say that it cannot be deleted yet.",
    Suspended, Webhook:
        "spec.suspend is true: nothing is changed at CHeKT.",
        "Set `spec.suspend` to false to go on.",
    NotCreated, Webhook:
        "There is no remote webhook yet.",
        "Look at Synced and Ready, which say why.",
    SwitchedOff, Webhook:
        "CHeKT has switched the remote webhook off.",
        "Nothing with `recovery.policy: Reactivate`. Find out why three deliveries failed: `status.deliveries`, the receiver's log, your Ingress. With `Never`, switch it on at CHeKT.",
    UnknownState, Webhook:
        "CHeKT uses a word for the state that the operator does not know.",
        "Ask CHeKT what the word in `status.state` means; it is left alone.",
    TestPending, Webhook:
        "A test delivery was asked for and has not arrived yet.",
        "Nothing for a minute. Then check the way from the internet to the receiver: `kubectl chekt verify`, DNS, certificate, Ingress, and a 401 in `status.deliveries.lastRejectedReason`.",
    TestNever, Webhook:
        "spec.testPolicy is Never, so nothing proves the path of a delivery.",
        "Nothing, or write `testPolicy: OnChange`. One test delivery: the annotation `chekt.com/test-requested-at`.",
    TestRefused, Webhook:
        "CHeKT refused to send a test delivery.",
        "Read CHeKT's words in the message. Ask again with the annotation `chekt.com/test-requested-at`.",
    ReceivedElsewhere, Webhook:
        "Deliveries go to a url that is not this operator's, so it cannot see them.",
        "Nothing: whoever answers at `spec.url` has to prove it.",
    EventsWaiting, Webhook:
        "Deliveries that were acknowledged wait for longer than a minute to become Events; none of them is lost.",
        "Look at the receiver's log: the API server is away or refuses Events, or more arrive than `--events-per-second` lets through.",
    AccountNotFound, Webhook:
        "The account does not exist.",
        "Create the account, or name another one in `spec.accountRef`.",
    AccountNotAllowed, Webhook:
        "The account does not exist or does not allow the namespace of the webhook.",
        "Write the namespace into `spec.allowedNamespaces` of the account, or name another account.",
    AccountChanged, Webhook:
        "The webhook was made with another account, and a webhook does not move.",
        "Write the old account back. To move, create another ChektWebhook with the new account, then delete this one.",
    AccountNotReady, Webhook:
        "The account is not ready; see its own conditions.",
        "Look at the account: `kubectl describe cacc`.",
    StillUsed, Account:
        "The account is being deleted and waits for the webhooks that are with it.",
        "Delete the webhooks that the message names, or wait for them to go.",
    SecretNotFound, Both:
        "The Secret, or the key in it, does not exist.",
        "Create the Secret and the key that the message names.",
    SecretNotUsable, Both:
        "The secret cannot be used.",
        "Write the value as the message says. `spec.auth` must name one method.",
    Forbidden, Both:
        "The operator is not allowed something in the cluster that it needs (RBAC).",
        "Give it the right that the message names; [rbac.md](rbac.md) says what each is for. Of a Secret: let it get that one (`rbac.secretNames` of the chart), or name another.",
    UrlClaimed, Webhook:
        "An older ChektWebhook has the same url.",
        "Give one of the two another url or name, or delete one.",
    WebhookClaimed, Webhook:
        "Another ChektWebhook has the remote webhook that spec.webhookID names.",
        "Delete one of the two, or leave `webhookID` out.",
    WebhookNotFound, Webhook:
        "CHeKT has no webhook with the id that spec.webhookID names.",
        "Correct the id, or leave `webhookID` out to have one made.",
    AdoptionRefused, Webhook:
        "CHeKT has a webhook with this url, and adoptionPolicy is Refuse.",
        "Set `adoptionPolicy: Adopt` to take it over, or delete it at CHeKT.",
    UrlAmbiguous, Webhook:
        "Several remote webhooks have this url and none is on record.",
        "Delete all but one of them at CHeKT, or name the right one in `webhookID` of a new ChektWebhook.",
    Rejected, Both:
        "CHeKT refuses the webhook as it is written.",
        "Read CHeKT's words in the message and change the spec. With the request id, CHeKT's support can tell more.",
    NotConverging, Webhook:
        "CHeKT accepts a change and does not make it.",
        "Write what CHeKT shows in `status`, or ask CHeKT's support. A secret that is not taken over: create the webhook anew.",
    Retrying, Webhook:
        "A request failed; it is tried again, ever more slowly.",
        "Nothing: it is tried again. The message says what CHeKT answered.",
    BaseUrlNotUsable, Account:
        "spec.baseURL cannot be called.",
        "Write an https url into `spec.baseURL` (or `tokenURL`).",
    CredentialsRejected, Account:
        "CHeKT refuses the credentials.",
        "Put a valid token, client secret or key into the account's Secret. It is noticed within seconds.",
    NotPermitted, Account:
        "CHeKT knows the credentials and does not permit them to manage webhooks.",
        "Ask CHeKT to permit this account to manage webhooks, and check its IP allow list.",
    WebhooksNotAvailable, Account:
        "Webhooks are not available to this account.",
        "Check `spec.baseURL`, or ask CHeKT for the webhooks API.",
    Unreachable, Account:
        "CHeKT cannot be reached or does not answer with success.",
        "Check DNS, proxy, NetworkPolicy and certificates between controller and CHeKT. If CHeKT is down: nothing, it goes on by itself.",
    Unreadable, Account:
        "CHeKT's answer cannot be read.",
        "Check that `spec.baseURL` is CHeKT and not a proxy's page; else tell CHeKT's support.",
    ListIncomplete, Both:
        "CHeKT's list of webhooks may be incomplete, so nothing is created.",
        "Tell CHeKT's support. What is known by its id is cared for meanwhile.",
}
