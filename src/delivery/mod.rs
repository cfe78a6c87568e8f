//! What is decided about a delivery: no async, no client, no clock.
