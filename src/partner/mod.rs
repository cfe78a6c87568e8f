//! The edge to CHeKT: its words on the wire, the calls, the tokens.

pub mod answer;
pub mod assertion;
pub mod fault;
pub mod http;
pub mod meter;
pub mod token;
pub mod wire;
