//! What things are: types and pure functions; no async, no I/O.

pub mod clock;
pub mod error;
pub mod host;
pub mod id;
pub mod image;
