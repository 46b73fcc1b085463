//! Where the database's words become the domain's: one table of named constraints, one translation of the rest.

use std::time::Duration;

use super::full;
use crate::domain::error::Error;

/// Said of networks and of the hosts' own subnets alike: it must not tell whose it is.
pub(super) const CIDR_TAKEN: &str = "this CIDR overlaps one that is in use in this cloud or on its hosts: choose another, or leave it out and get a free one";

/// What a violated constraint means to the caller: the code of the conflict and what to do.
const CONFLICTS: &[(&str, &str, &str)] = &[
    (
        "tenants_name_key",
        "name-taken",
        "there is a tenant of this name already: choose another name",
    ),
    ("users_name_key", "name-taken", "there is a user of this name already: choose another name"),
    (
        "flavors_name_key",
        "name-taken",
        "there is a flavor of this name already: choose another name",
    ),
    (
        "keypairs_tenant_name_key",
        "name-taken",
        "there is a keypair of this name already: choose another name",
    ),
    (
        "networks_tenant_name_key",
        "name-taken",
        "there is a network of this name already: choose another name",
    ),
    (
        "groups_tenant_name_key",
        "name-taken",
        "there is a group of this name already: choose another name",
    ),
    (
        "aggregates_name_key",
        "name-taken",
        "there is an aggregate of this name already: choose another name",
    ),
    (
        "reservations_tenant_name_key",
        "name-taken",
        "there is a reservation of this name already: choose another name",
    ),
    ("hosts_name_key", "name-taken", "there is a host of this name already: choose another name"),
    (
        "hosts_host_uuid_key",
        "host-known",
        "this host is registered already, perhaps under another URI: look through GET /v1/hosts",
    ),
    ("networks_cidr_excl", "cidr-taken", CIDR_TAKEN),
    (
        "addresses_pkey",
        "address-taken",
        "this address is in use, or was until a moment ago: choose another, or leave it out and get a free one",
    ),
    (
        "ports_mac_key",
        "mac-taken",
        "this MAC address is in use on the network: choose another, or leave it out and get a free one",
    ),
    (
        "memberships_tenant_fkey",
        "in-use",
        "the tenant has no such membership, or still has members: remove them first",
    ),
    ("keypairs_tenant_fkey", "in-use", "the tenant still has keypairs: delete them first"),
    (
        "instances_image_fkey",
        "image-gone",
        "the image was deleted while the instance was being made: choose another image",
    ),
    ("images_tenant_fkey", "in-use", "the tenant still has images: delete them first"),
    ("networks_tenant_fkey", "in-use", "the tenant still has networks: delete them first"),
    ("ports_tenant_fkey", "in-use", "the tenant still has ports: delete them first"),
    (
        "ports_network_fkey",
        "in-use",
        "the network still has ports: delete the instances and ports on it first",
    ),
    ("groups_tenant_fkey", "in-use", "the tenant still has groups: delete them first"),
    ("reservations_tenant_fkey", "in-use", "the tenant still has reservations: delete them first"),
    (
        "aggregate_tenants_tenant_fkey",
        "in-use",
        "hosts are dedicated to the tenant: take it out of its aggregates first",
    ),
    (
        "instances_group_fkey",
        "in-use",
        "the group still has instances, or was deleted at this moment: delete them first, or choose another",
    ),
    (
        "instances_reservation_fkey",
        "reservation-ended",
        "the reservation ended at this moment: choose another",
    ),
    (
        "reservation_slots_host_fkey",
        "in-use",
        "the host still has slots of reservations: delete those first",
    ),
    ("instances_tenant_fkey", "in-use", "the tenant still has instances: delete them first"),
    ("incarnations_host_fkey", "in-use", "the host still carries instances: delete them first"),
];

const HELD_UP: &str = "the database took too long for a statement, as where somebody else holds a lock there (see its pg_locks): try again";

impl From<sqlx::Error> for Error {
    fn from(source: sqlx::Error) -> Self {
        if let sqlx::Error::Database(database) = &source {
            let named =
                database.constraint().and_then(|c| CONFLICTS.iter().find(|(n, ..)| *n == c));
            if let Some((_, code, detail)) = named {
                return Self::conflict(code, *detail);
            }
            // 22021, 22P05: a NUL, which PostgreSQL's text cannot hold and no name of ours has.
            if database.code().is_some_and(|code| ["22021", "22P05"].contains(&code.as_ref())) {
                return Self::field(
                    "",
                    "text must not hold a NUL character (U+0000): leave it out",
                );
            }
            // 53100: the disk is full; 25006: only reads are allowed.
            let refused = match database.code().as_deref() {
                Some("53100") => Some(full::FULL),
                Some("25006") => Some(full::READ_ONLY),
                _ => None,
            };
            if let Some(why) = refused {
                full::note(why);
                let retry_after = Duration::from_secs(30);
                return Self::Unavailable { detail: why.into(), retry_after };
            }
            // 57014, 55P03: it waited for too long.
            if database.code().is_some_and(|code| ["57014", "55P03"].contains(&code.as_ref())) {
                return unavailable(HELD_UP);
            }
            // 57P01..57P03: the server is shutting down or starting; 53300: too many connections; 40001, 40P01: lost a race;
            // 25P03: was waited for for too long; 53200: no memory.
            let transient =
                ["57P01", "57P02", "57P03", "53300", "40001", "40P01", "25P03", "53200"];
            if database.code().is_some_and(|code| transient.contains(&code.as_ref())) {
                return unavailable("the database is busy or restarting: try again");
            }
        }
        match source {
            sqlx::Error::PoolTimedOut => {
                unavailable("the database has no free connection: try again")
            }
            sqlx::Error::Io(_) | sqlx::Error::PoolClosed => {
                unavailable("the database cannot be reached: try again")
            }
            other => Self::Internal(anyhow::Error::new(other)),
        }
    }
}

fn unavailable(detail: &str) -> Error {
    Error::Unavailable { detail: detail.into(), retry_after: Duration::from_secs(1) }
}
