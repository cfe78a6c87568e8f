//! Reasons: the CamelCase words of conditions, as one enum, so that a typo does not compile and the reference
//! can list them all with what they mean.

macro_rules! reasons {
    ($($name:ident: $meaning:literal,)*) => {
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
        }
    };
}

reasons! {
    InSync: "The remote webhook is as written.",
    Active: "CHeKT says that the remote webhook is active.",
    Verified: "A test delivery came back through the receiver under the current secret.",
    Connected: "The account's webhooks can be listed.",
    Working: "Work is under way.",
    Queued: "The account's budget of requests is used up for now, and others come first.",
    Settling: "The outcome of an earlier request is not known yet; the operator waits before it looks again.",
    Deleting: "The remote webhook is being removed before the object goes.",
    Suspended: "spec.suspend is true: nothing is changed at CHeKT.",
    NotCreated: "There is no remote webhook yet.",
    SwitchedOff: "CHeKT has switched the remote webhook off.",
    UnknownState: "CHeKT uses a word for the state that the operator does not know.",
    TestPending: "A test delivery was asked for and has not arrived yet.",
    TestNever: "spec.testPolicy is Never, so nothing proves the path of a delivery.",
    TestRefused: "CHeKT refused to send a test delivery.",
    ReceivedElsewhere: "Deliveries go to a url that is not this operator's, so it cannot see them.",
    EventsWaiting: "Deliveries that were acknowledged wait for longer than a minute to become Events; none of them is lost.",
    AccountNotFound: "The account does not exist.",
    AccountNotAllowed: "The account does not exist or does not allow the namespace of the webhook.",
    AccountChanged: "The webhook was made with another account, and a webhook does not move.",
    AccountNotReady: "The account is not ready; see its own conditions.",
    StillUsed: "The account is being deleted and waits for the webhooks that are with it.",
    SecretNotFound: "The Secret, or the key in it, does not exist.",
    SecretNotUsable: "The secret cannot be used.",
    UrlClaimed: "An older ChektWebhook has the same url.",
    WebhookClaimed: "Another ChektWebhook has the remote webhook that spec.webhookID names.",
    WebhookNotFound: "CHeKT has no webhook with the id that spec.webhookID names.",
    AdoptionRefused: "CHeKT has a webhook with this url, and adoptionPolicy is Refuse.",
    UrlAmbiguous: "Several remote webhooks have this url and none is on record.",
    Rejected: "CHeKT refuses the webhook as it is written.",
    NotConverging: "CHeKT accepts a change and does not make it.",
    Retrying: "A request failed; it is tried again, ever more slowly.",
    BaseUrlNotUsable: "spec.baseURL cannot be called.",
    CredentialsRejected: "CHeKT refuses the credentials.",
    NotPermitted: "CHeKT knows the credentials and does not permit them to manage webhooks.",
    WebhooksNotAvailable: "Webhooks are not available to this account.",
    Unreachable: "CHeKT cannot be reached or does not answer with success.",
    Unreadable: "CHeKT's answer cannot be read.",
    ListIncomplete: "CHeKT's list of webhooks may be incomplete, so nothing is created.",
}
