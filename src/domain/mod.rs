//! What things are: types and pure functions; no async, no I/O.

pub mod beat;
pub mod auth;
pub mod caller;
pub mod clock;
pub mod error;
pub mod event;
pub mod flavor;
pub mod host;
pub mod host_uri;
pub mod id;
pub mod image;
pub mod instance;
pub mod keypair;
pub mod metric;
pub mod network;
pub mod page;
pub mod port;
pub mod qcow2;
pub mod subnet;
pub mod password;
pub mod tenant;
pub mod text;
pub mod token;
pub mod user_data;
pub mod user;
