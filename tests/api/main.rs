//! The API, spoken to over HTTP: a real server on a free port, a real PostgreSQL, a module a noun.

#[path = "../common/client.rs"]
mod client;
mod harness;
mod sse;

mod auth;
mod cli;
mod conformance;
mod crowd;
mod authorize;
mod documents;
mod events;
mod flavors;
mod foreign;
mod fuzz;
mod health;
mod hostile;
mod hosts;
mod images;
mod instances;
mod keypairs;
mod networks;
mod ports;
mod secrets;
mod tenants;
mod tokens;
mod upkeep;
mod users;
