//! What is decided about an account: no async, no client, no clock.
//!
//! An account is the unit in which CHeKT counts requests and in which webhooks are listed, so it is where both
//! are shared: one [`budget`] of requests, one [`roster`] of remote webhooks. Who may share them is [`tenancy`].

pub mod breaker;
pub mod budget;
pub mod credentials;
pub mod orphans;
pub mod report;
pub mod roster;
pub mod tenancy;
pub mod turns;
