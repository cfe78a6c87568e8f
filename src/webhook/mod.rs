//! What is decided about a webhook: no async, no client, no clock.
