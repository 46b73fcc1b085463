//! The command line for people: `up`, the server's own commands, and one file a noun for client commands.

pub mod postgres;
