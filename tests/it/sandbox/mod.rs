//! The sandbox as its users meet it: over HTTP, with a real receiver at the other end.

mod bench;
mod control;
mod deliveries;
mod faults;
mod partner;
mod quirks;
mod receiver;
mod restart;
