//! What can be said of a new instance without a look at the database: every bound, every field at fault at once.

use std::collections::BTreeSet;

use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::domain::flavor::check_traits;
use crate::domain::host::check_zone;
use crate::domain::instance::{NewInstance, NewInterface, Wanted, check_expiry};
use crate::domain::text::{Name, check_labels};

/// Longest user data, in bytes.
const USER_DATA_MAX: usize = 64 * 1024;
const INTERFACES_MAX: usize = 16;
const KEYPAIRS_MAX: usize = 32;

/// What needs no database.
pub struct Checked {
    pub name: Name,
    pub wanted: Wanted,
}

pub fn check(new: &NewInstance, now: Time) -> Result<Checked> {
    let mut faults = Vec::new();
    let mut gather = |outcome: Result<()>| match outcome {
        Err(Error::Invalid(more)) => {
            faults.extend(more);
            Ok(())
        }
        other => other,
    };
    let name = Name::parse("/name", &new.name);
    if let Err(Error::Invalid(more)) = &name {
        gather(Err(Error::Invalid(more.clone())))?;
    }
    gather(check_labels("/labels", &new.labels))?;
    gather(reference("/image", &new.image))?;
    gather(reference("/flavor", &new.flavor))?;
    gather(user_data(new.user_data.as_deref()))?;
    if new.keypairs.len() > KEYPAIRS_MAX {
        gather(Err(Error::field("/keypairs", format!("may name up to {KEYPAIRS_MAX} keypairs"))))?;
    }
    for (i, keypair) in new.keypairs.iter().enumerate() {
        gather(reference(&format!("/keypairs/{i}"), keypair))?;
    }
    gather(interfaces(new.networks.as_deref().unwrap_or_default()))?;
    gather(check_expiry("/expires_at", new.expires_at, now))?;
    gather(new.zone.as_deref().map_or(Ok(()), |zone| check_zone("/zone", zone)))?;
    gather(check_traits("/required_traits", &new.required_traits))?;
    gather(check_traits("/forbidden_traits", &new.forbidden_traits))?;
    gather(new.group.as_deref().map_or(Ok(()), |group| reference("/group", group)))?;
    let reservation = new.reservation.as_deref();
    gather(reservation.map_or(Ok(()), |named| reference("/reservation", named)))?;
    let wanted = new.wanted.unwrap_or_default().into();
    if faults.is_empty() {
        Ok(Checked { name: name?, wanted })
    } else {
        Err(Error::Invalid(faults))
    }
}

/// An id or a name of something else: both are names in form.
fn reference(pointer: &str, text: &str) -> Result<()> {
    Name::parse(pointer, text).map(|_| ())
}

fn user_data(data: Option<&str>) -> Result<()> {
    let Some(data) = data else { return Ok(()) };
    if data.len() > USER_DATA_MAX {
        let detail = format!(
            "may have up to {USER_DATA_MAX} bytes, has {}: let it fetch the rest",
            data.len()
        );
        return Err(Error::field("/user_data", detail));
    }
    if data.contains('\0') {
        return Err(Error::field("/user_data", "must not hold a NUL byte"));
    }
    Ok(())
}

fn interfaces(all: &[NewInterface]) -> Result<()> {
    if all.len() > INTERFACES_MAX {
        return Err(Error::field(
            "/networks",
            format!("may hold up to {INTERFACES_MAX} interfaces, holds {}", all.len()),
        ));
    }
    let mut ports = BTreeSet::new();
    for (i, interface) in all.iter().enumerate() {
        let at = format!("/networks/{i}");
        match (&interface.network, interface.port_id, interface.address) {
            (Some(network), None, _) => reference(&format!("{at}/network"), network)?,
            (None, Some(port), None) if ports.insert(port) => {}
            (None, Some(_), None) => {
                return Err(Error::field(
                    format!("{at}/port_id"),
                    "is named twice: a port is one interface",
                ));
            }
            (None, Some(_), Some(_)) => {
                return Err(Error::field(
                    format!("{at}/address"),
                    "goes with `network`: a port has its address already",
                ));
            }
            (Some(_), Some(_), _) | (None, None, _) => {
                return Err(Error::field(at, "must name either `network` or `port_id`"));
            }
        }
    }
    Ok(())
}
