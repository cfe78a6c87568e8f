//! Runs the generator of the reference until the one integration binary takes it in.
#[path = "it/reference.rs"]
mod reference;
