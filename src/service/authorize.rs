//! Who may do what: one matrix, a row an operation of the OpenAPI document. A test holds the two together.

use crate::domain::caller::{Caller, Role};
use crate::domain::error::{Error, Result};

/// The least that an operation asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// No login.
    Anyone,
    /// Any user, with or without a tenant.
    User,
    /// This role in the token's tenant. Another tenant's things are not found, whatever the role.
    Tenant(Role),
    /// The cloud's admin.
    Admin,
}

use Need::{Admin, Anyone, Tenant, User};
use Role::{Member, Owner, Reader};

/// Operation id and need.
pub const MATRIX: &[(&str, Need)] = &[
    ("login", Anyone),
    ("get_signing_keys", Anyone),
    ("get_whoami", User),
    ("change_password", User),
    ("create_token", User),
    ("list_tokens", User),
    ("get_token", User),
    ("delete_token", User),
    ("create_user", Admin),
    ("list_users", Admin),
    ("get_user", Admin),
    ("update_user", Admin),
    ("delete_user", Admin),
    ("create_tenant", Admin),
    ("list_tenants", User),
    ("get_tenant", Tenant(Reader)),
    ("update_tenant", Admin),
    ("delete_tenant", Admin),
    ("list_members", Tenant(Owner)),
    ("put_member", Tenant(Owner)),
    ("delete_member", Tenant(Owner)),
    ("create_flavor", Admin),
    ("list_flavors", User),
    ("get_flavor", User),
    ("delete_flavor", Admin),
    ("get_health", Anyone),
    ("get_readiness", Anyone),
    ("create_host", Admin),
    ("list_hosts", Admin),
    ("get_host", Admin),
    ("update_host", Admin),
    ("delete_host", Admin),
    ("create_image", Tenant(Member)),
    ("list_images", Tenant(Reader)),
    ("get_image", Tenant(Reader)),
    ("get_image_data", Tenant(Reader)),
    ("put_image_data", Tenant(Member)),
    ("update_image", Tenant(Member)),
    ("delete_image", Tenant(Member)),
    ("create_keypair", Tenant(Member)),
    ("list_keypairs", Tenant(Reader)),
    ("get_keypair", Tenant(Reader)),
    ("delete_keypair", Tenant(Member)),
    ("create_network", Tenant(Member)),
    ("list_networks", Tenant(Reader)),
    ("get_network", Tenant(Reader)),
    ("update_network", Tenant(Member)),
    ("delete_network", Tenant(Member)),
    ("create_port", Tenant(Member)),
    ("list_ports", Tenant(Reader)),
    ("get_port", Tenant(Reader)),
    ("delete_port", Tenant(Member)),
    ("create_group", Tenant(Member)),
    ("list_groups", Tenant(Reader)),
    ("get_group", Tenant(Reader)),
    ("delete_group", Tenant(Member)),
    ("create_reservation", Tenant(Member)),
    ("list_reservations", Tenant(Reader)),
    ("get_reservation", Tenant(Reader)),
    ("update_reservation", Tenant(Member)),
    ("delete_reservation", Tenant(Member)),
    ("create_aggregate", Admin),
    ("list_aggregates", Admin),
    ("get_aggregate", Admin),
    ("update_aggregate", Admin),
    ("delete_aggregate", Admin),
    ("explain_placement", Tenant(Reader)),
    ("list_events", Tenant(Reader)),
    ("create_instance", Tenant(Member)),
    ("list_instances", Tenant(Reader)),
    ("get_instance", Tenant(Reader)),
    ("update_instance", Tenant(Member)),
    ("delete_instance", Tenant(Member)),
    ("start_instance", Tenant(Member)),
    ("stop_instance", Tenant(Member)),
    ("reboot_instance", Tenant(Member)),
    ("pause_instance", Tenant(Member)),
    ("resume_instance", Tenant(Member)),
    ("retry_instance", Tenant(Member)),
    ("get_instance_console", Tenant(Reader)),
    ("list_stalled", Admin),
    ("retry_stalled", Admin),
    ("get_cloud", Admin),
    ("resume_cloud", Admin),
    ("rotate_keys", Admin),
    ("list_drift", Admin),
    ("get_fsck", Admin),
];

/// The row of `operation`; an operation without a row is the admin's alone.
pub fn need(operation: &str) -> Need {
    MATRIX.iter().find(|(name, _)| *name == operation).map_or(Admin, |(_, need)| *need)
}

/// Lets the caller pass, or says what is missing.
pub fn authorize(caller: &Caller, operation: &'static str) -> Result<()> {
    match need(operation) {
        Anyone | User => Ok(()),
        _ if caller.admin => Ok(()),
        Admin => Err(Error::Forbidden(format!("{operation} is for the cloud's admins"))),
        Tenant(least) => match caller.role {
            Some(role) if role >= least => Ok(()),
            Some(role) => Err(Error::Forbidden(format!(
                "{operation} needs the role {least:?} in this tenant and you are {role:?}: ask an owner",
            ).to_lowercase())),
            None => {
                caller.tenant()?;
                Err(Error::Forbidden("you are not a member of this tenant: ask an owner".into()))
            }
        },
    }
}
