//! The record on disk of deliveries acknowledged and not yet published.
