//! Networks: isolated segments with a subnet, made real on a host when the first instance there needs them.

use std::net::{IpAddr, Ipv4Addr};

use chrono::{DateTime, Utc};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Error, FieldError, Result};
use super::id::{NetworkId, TenantId};
use super::subnet::{Subnet, Wishes, parse_cidr};
use super::text::{Labels, Name, check_labels};

pub const DNS_MAX: usize = 4;

/// What may be done with a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum NetworkStatus {
    /// Takes ports.
    Active,
    /// Is being removed from the hosts, and takes no ports any more.
    Deleting,
}

/// An isolated segment with one subnet. Guests reach the outside through NAT, and one another within it on the same host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Network {
    pub id: NetworkId,
    pub tenant_id: TenantId,
    /// Unique in the tenant, among the networks that are not being deleted.
    pub name: Name,
    #[sqlx(json)]
    #[schema(value_type = std::collections::HashMap<String, String>, example = json!({"team": "ci"}))]
    pub labels: Labels,
    /// The subnet; it overlaps no other in the cloud.
    #[schema(value_type = String, max_length = 18, example = "10.64.7.0/24")]
    pub cidr: IpNet,
    #[schema(value_type = String, max_length = 15, example = "10.64.7.1")]
    pub gateway: IpAddr,
    /// Name servers that guests are told; none: the gateway answers.
    #[schema(value_type = Vec<String>, max_items = 4, example = json!(["9.9.9.9"]))]
    pub dns: Vec<IpAddr>,
    /// The first address that a port may have.
    #[schema(value_type = String, max_length = 15, example = "10.64.7.2")]
    pub range_start: IpAddr,
    /// The last address that a port may have.
    #[schema(value_type = String, max_length = 15, example = "10.64.7.254")]
    pub range_end: IpAddr,
    /// Whether hosts drop what a guest sends under an address that is not its own; its guests start more slowly.
    pub port_security: bool,
    pub status: NetworkStatus,
    /// What a deletion waits for, or what went wrong at the last attempt to make the network whole on its hosts.
    #[schema(max_length = 2000)]
    pub status_reason: Option<String>,
    /// How often in a row it was worked on in vain.
    #[serde(default)]
    #[schema(minimum = 0, example = 0)]
    pub attempts: i64,
    /// What went wrong at the last of these attempts; null where none was in vain.
    #[serde(default)]
    #[schema(max_length = 10000)]
    pub last_error: Option<String>,
    /// When it is looked at next; null: at no set time.
    #[serde(default)]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Since when it has failed so often, or for so long, that somebody should look at it.
    #[serde(default)]
    pub stalled_since: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// Counts changes; also the ETag.
    #[schema(minimum = 1, example = 1)]
    pub revision: i64,
}

/// What a new network is made of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewNetwork {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces; unique in the tenant.
    #[schema(min_length = 1, max_length = 63, example = "ci")]
    pub name: String,
    /// An IPv4 CIDR with a prefix of /16 to /29, private and not in use; a free one is chosen if it is not given.
    #[serde(default)]
    #[schema(max_length = 18, example = "10.64.7.0/24")]
    pub cidr: Option<String>,
    /// A host of `cidr`, which must be given too; the first if it is not given.
    #[serde(default)]
    #[schema(max_length = 15, example = "10.64.7.1")]
    pub gateway: Option<String>,
    /// Up to four IPv4 name servers that guests are told; none: the gateway answers.
    #[serde(default)]
    #[schema(max_items = 4, example = json!(["9.9.9.9"]))]
    pub dns: Vec<String>,
    /// The first address that ports may have; with `cidr` only. All hosts but the gateway if it is not given.
    #[serde(default)]
    #[schema(max_length = 15, example = "10.64.7.2")]
    pub range_start: Option<String>,
    /// The last address that ports may have; with `cidr` only.
    #[serde(default)]
    #[schema(max_length = 15, example = "10.64.7.254")]
    pub range_end: Option<String>,
    /// Whether hosts drop what a guest sends under an address that is not its own; its guests start more slowly.
    #[serde(default)]
    #[schema(example = false)]
    pub port_security: bool,
    /// At most 32 pairs.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, String>, example = json!({"team": "ci"}))]
    pub labels: Labels,
}

/// What may be changed of a network. Fields that are not given stay.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkPatch {
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, example = "ci-2")]
    pub name: Option<String>,
    /// The new labels, all of them.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::HashMap<String, String>>, example = json!({"team": "ci"}))]
    pub labels: Option<Labels>,
    /// The new name servers, all of them. Instances made from then on are told; a host's own DHCP server tells them when the
    /// network is next made there, which is after the last instance on it has left the host.
    #[serde(default)]
    #[schema(max_items = 4, example = json!(["9.9.9.9"]))]
    pub dns: Option<Vec<String>>,
}

/// A new network, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub name: Name,
    /// `None`: a free CIDR is to be chosen.
    pub subnet: Option<Subnet>,
    pub dns: Vec<IpAddr>,
}

/// A change, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub name: Option<Name>,
    pub labels: Option<Labels>,
    pub dns: Option<Vec<IpAddr>>,
}

impl NewNetwork {
    /// Every bound. Only an `admin` may use a CIDR that is not private.
    pub fn check(&self, admin: bool) -> Result<Plan> {
        let mut faults = Vec::new();
        let name = collect(&mut faults, Name::parse("/name", &self.name));
        collect(&mut faults, check_labels("/labels", &self.labels));
        let dns = collect(&mut faults, check_dns(&self.dns));
        let subnet = collect(&mut faults, self.subnet(admin));
        match (name, dns, subnet) {
            (Some(name), Some(dns), Some(subnet)) if faults.is_empty() => {
                Ok(Plan { name, subnet, dns })
            }
            _ => Err(Error::Invalid(faults)),
        }
    }

    fn subnet(&self, admin: bool) -> Result<Option<Subnet>> {
        let mut faults = Vec::new();
        let mut address = |pointer: &str, text: &Option<String>| {
            let text = text.as_ref()?;
            if self.cidr.is_none() {
                let detail = "goes with a cidr: give that too, or neither of them";
                faults.push(FieldError { pointer: pointer.into(), detail: detail.into() });
                return None;
            }
            collect(&mut faults, parse_address(pointer, text))
        };
        let wishes = Wishes {
            gateway: address("/gateway", &self.gateway),
            range_start: address("/range_start", &self.range_start),
            range_end: address("/range_end", &self.range_end),
        };
        let cidr = self.cidr.as_ref().map(|text| parse_cidr("/cidr", text, admin)).transpose();
        match collect(&mut faults, cidr) {
            Some(cidr) if faults.is_empty() => {
                cidr.map(|cidr| Subnet::new(cidr, wishes)).transpose()
            }
            _ => Err(Error::Invalid(faults)),
        }
    }
}

impl NetworkPatch {
    pub fn check(&self) -> Result<Change> {
        let mut faults = Vec::new();
        let name = self.name.as_ref().map(|name| Name::parse("/name", name)).transpose();
        let name = collect(&mut faults, name).flatten();
        if let Some(labels) = &self.labels {
            collect(&mut faults, check_labels("/labels", labels));
        }
        let dns = self.dns.as_ref().map(|dns| check_dns(dns)).transpose();
        let dns = collect(&mut faults, dns).flatten();
        let change = Change { name, labels: self.labels.clone(), dns };
        if faults.is_empty() { Ok(change) } else { Err(Error::Invalid(faults)) }
    }
}

/// The value, or its faults among the others.
fn collect<T>(faults: &mut Vec<FieldError>, result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::Invalid(more)) => {
            faults.extend(more);
            None
        }
        Err(other) => {
            faults.push(FieldError { pointer: String::new(), detail: other.to_string() });
            None
        }
    }
}

fn check_dns(dns: &[String]) -> Result<Vec<IpAddr>> {
    if dns.len() > DNS_MAX {
        let detail = format!("may hold up to {DNS_MAX} name servers, holds {}", dns.len());
        return Err(Error::field("/dns", detail));
    }
    let server = |(i, text): (usize, &String)| {
        let pointer = format!("/dns/{i}");
        let address = parse_address(&pointer, text)?;
        let odd = address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || address.is_broadcast();
        if odd {
            let detail = format!("{address} is no address that a guest could ask: give a server's");
            return Err(Error::field(pointer, detail));
        }
        Ok(IpAddr::V4(address))
    };
    dns.iter().enumerate().map(server).collect()
}

fn parse_address(pointer: &str, text: &str) -> Result<Ipv4Addr> {
    text.parse().map_err(|_not_an_address: std::net::AddrParseError| {
        Error::field(pointer, "must be an IPv4 address such as 10.1.2.3")
    })
}

impl Network {
    /// The subnet as a value; `None` if it is not IPv4, which none of ours is.
    pub fn subnet(&self) -> Option<Subnet> {
        let v4 = |address: IpAddr| match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        };
        let cidr: Ipv4Net = match self.cidr {
            IpNet::V4(cidr) => cidr,
            IpNet::V6(_) => return None,
        };
        Some(Subnet {
            cidr,
            gateway: v4(self.gateway)?,
            range_start: v4(self.range_start)?,
            range_end: v4(self.range_end)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(body: serde_json::Value) -> Vec<String> {
        let new: NewNetwork = serde_json::from_value(body).expect("a body");
        match new.check(false) {
            Ok(_) => Vec::new(),
            Err(Error::Invalid(faults)) => faults.into_iter().map(|f| f.pointer).collect(),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn every_field_at_fault_is_named_at_once() {
        assert_eq!(pointers(serde_json::json!({"name": "a"})), [""; 0]);
        assert_eq!(
            pointers(serde_json::json!({
                "name": "", "cidr": "10.0.0.0/8", "gateway": "x", "range_end": "::1", "dns": ["9.9.9.9", "127.0.0.1"],
                "labels": {"a b": ""},
            })),
            ["/name", "/labels/a b", "/dns/1", "/gateway", "/range_end", "/cidr"]
        );
        assert_eq!(
            pointers(serde_json::json!({"name": "a", "gateway": "10.0.0.1", "dns": vec!["a"; 5]})),
            ["/dns", "/gateway"]
        );
    }
}
