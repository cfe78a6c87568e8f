//! The edge to CHeKT: its words on the wire, the calls, the tokens.
