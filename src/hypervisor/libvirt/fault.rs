//! From libvirt's errors to faults: the one place that decides what may pass by itself.

use virt::error::{Error, ErrorDomain, ErrorNumber as Code};

use crate::hypervisor::{Fault, FaultKind};

/// libvirt's error while doing `what`, as a fault `<what>: <libvirt's message>`.
pub fn fault(what: &str, error: &Error) -> Fault {
    Fault { kind: kind(error), message: format!("{what}: {}", error.message()) }
}

/// Shorthand for `map_err`.
pub fn during(what: impl Into<String>) -> impl FnOnce(Error) -> Fault {
    let what = what.into();
    move |error| fault(&what, &error)
}

/// Whether the error says that the thing asked for is surely not there.
pub fn is_absent(error: &Error) -> bool {
    [Code::NoDomain, Code::NoNetwork, Code::NoStoragePool, Code::NoStorageVolume]
        .into_iter()
        .any(|code| error.code().is(code))
}

pub fn is(error: &Error, code: Code) -> bool {
    error.code().is(code)
}

fn kind(error: &Error) -> FaultKind {
    // These have no code of their own. libvirt's daemon runs untranslated under every service manager.
    const IN_THE_WAY: [&str; 4] = [
        "already in use by interface",
        "bridge name",
        "Storage source conflict with pool",
        "already exists with uuid",
    ];
    if error.domain().is(ErrorDomain::Rpc) {
        // The socket: closed, reset, or silent for longer than keepalive allows.
        return FaultKind::Unreachable;
    }
    match error.code().known() {
        Some(
            Code::NoConnect
            | Code::InvalidConn
            | Code::UnknownHost
            | Code::Rpc
            | Code::GnutlsError
            | Code::Ssh
            | Code::Libssh
            | Code::AuthFailed
            | Code::AuthCancelled
            | Code::AuthUnavailable,
        ) => FaultKind::Unreachable,
        Some(Code::DomExist | Code::NetworkExist | Code::StorageVolExist) => FaultKind::Conflict,
        Some(
            Code::NoSupport
            | Code::NoName
            | Code::NoOs
            | Code::NoDevice
            | Code::NoSource
            | Code::NoTarget
            | Code::InvalidArg
            | Code::OsType
            | Code::XmlError
            | Code::XmlDetail
            | Code::XmlInvalidSchema
            | Code::InvalidMac
            | Code::OperationDenied
            | Code::AccessDenied
            | Code::ConfigUnsupported
            | Code::ArgumentUnsupported
            | Code::OperationUnsupported
            | Code::CpuIncompatible
            | Code::NoNwfilter
            | Code::Overflow,
        ) => FaultKind::Permanent,
        // OperationTimeout stays here: the host answers, but another job holds the domain.
        _ if IN_THE_WAY.iter().any(|text| error.message().contains(text)) => FaultKind::Conflict,
        _ => FaultKind::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virt::connect::Connect;

    #[test]
    fn a_host_that_nobody_runs_is_unreachable() {
        super::super::ffi::init().unwrap();
        let error =
            Connect::open(Some("qemu+unix:///system?socket=/nonexistent/sock")).unwrap_err();
        let fault = fault("connect", &error);
        assert_eq!(fault.kind, FaultKind::Unreachable, "{fault}");
        assert!(fault.message.starts_with("connect: "), "{fault}");
    }

    #[test]
    fn nonsense_is_refused_for_good() {
        super::super::ffi::init().unwrap();
        let conn = Connect::open(Some("test:///default")).unwrap();
        let error = conn.create_domain_xml("<domain type='test'/>", 0).unwrap_err();
        assert_eq!(fault("start", &error).kind, FaultKind::Permanent, "{error}");
        let absent = conn.lookup_domain_by_name("nobody").unwrap_err();
        assert!(is_absent(&absent) && !is_absent(&error));
    }
}
