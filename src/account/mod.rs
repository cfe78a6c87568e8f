//! What is decided about an account: no async, no client, no clock.
