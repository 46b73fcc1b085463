//! The API, spoken to over HTTP: a real server on a free port, a real PostgreSQL, a module a noun.

#[path = "../common/client.rs"]
mod client;
mod exposition;
mod process;
mod harness;
mod sse;

mod auth;
mod cli;
mod authorize;
mod dashboards;
mod documents;
mod drain;
mod events;
mod flavors;
mod health;
mod hosts;
mod images;
mod instances;
mod keypairs;
mod log;
mod metrics;
mod networks;
mod ports;
mod switches;
mod tenants;
mod tokens;
mod upkeep;
mod users;
