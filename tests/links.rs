//! Runs the check of links until the one integration binary takes it in.
#[path = "it/links.rs"]
mod links;
