//! Makes the world match the store: loops that look, decide, take at most one step, and say when to look again.

pub mod events;
pub mod images;
