//! The remote webhook: the object at CHeKT, as far as CHeKT tells.

/// One webhook as CHeKT shows it. The secret is never among what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteWebhook {
    /// CHeKT's id: a string, or a number written as one.
    pub id: String,
    /// Where it delivers, in CHeKT's spelling.
    pub url: String,
    /// What it is subscribed to, in CHeKT's order.
    pub events: Vec<String>,
    /// CHeKT's word for its state; absent where CHeKT says none.
    pub state: Option<String>,
    /// When it was created, in CHeKT's spelling, which differs from page to page of its documentation.
    pub created_at: Option<String>,
}
