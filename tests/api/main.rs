//! The API, spoken to over HTTP: a real server on a free port, a real PostgreSQL, a module a noun.

#[path = "../common/client.rs"]
mod client;
mod exposition;
mod process;
mod queue;
mod gathered;
mod groups;
mod harness;
#[path = "../common/backup.rs"]
mod backup;
mod sse;
mod world;

mod aggregates;
mod auth;
mod cli;
mod conformance;
mod crowd;
mod authorize;
mod dashboards;
mod documents;
mod drain;
mod events;
mod flavors;
mod foreign;
mod fsck;
mod fuzz;
mod health;
mod hostile;
mod hosts;
mod images;
mod instances;
mod keypairs;
mod log;
mod metrics;
mod networks;
mod ports;
mod proposals;
mod remedies;
mod reservations;
mod restore;
mod secrets;
mod stalled;
mod sweep;
mod switches;
mod tenants;
mod tokens;
mod upkeep;
mod users;
