//! Libvirt URIs that a host may be registered with: what they may say, decided without asking libvirt.
//!
//! Grammar: libvirt's "Connection URIs" and "Remote support". A URI is used by this process, so that one that can name a program
//! or a password would hand these to whoever reads or writes hosts.

use super::error::{Error, Result};

/// Longest URI, in bytes.
pub const URI_MAX: usize = 512;

/// Driver and transport.
const SCHEMES: &[&str] = &["qemu", "qemu+unix", "qemu+tls", "qemu+ssh", "qemu+tcp", "test"];

/// What may follow `?`. None of these runs a program, and files that they name are read, not written.
const PARAMETERS: &[&str] = &[
    "socket",
    "mode",
    "proxy",
    "keyfile",
    "known_hosts",
    "known_hosts_verify",
    "sshauth",
    "no_tty",
    "no_verify",
    "pkipath",
    "tls_priority",
];

/// Refuses what libvirt would not take, and what we would not give it; the error names `pointer` and what would do.
/// `mocks`: whether libvirt's mock host will do.
pub fn check(pointer: &str, uri: &str, mocks: bool) -> Result<()> {
    fault(uri, mocks).map_or(Ok(()), |detail| Err(Error::field(pointer, detail)))
}

/// Whether two URIs mean the same daemon, if they mean the same machine: its system daemon, a user's own, or the mock.
pub fn same_daemon(a: &str, b: &str) -> bool {
    let daemon = |uri: &str| {
        let (scheme, rest) = uri.split_once("://")?;
        let path = rest.split('?').next()?.split_once('/')?.1.to_owned();
        Some((scheme.split('+').next()?.to_owned(), path))
    };
    daemon(a) == daemon(b)
}

fn fault(uri: &str, mocks: bool) -> Option<String> {
    let says = |text: &str| Some(text.to_owned());
    if uri.is_empty() || uri.len() > URI_MAX {
        return Some(format!("must have 1 to {URI_MAX} bytes, has {}", uri.len()));
    }
    if !uri.bytes().all(|b| b.is_ascii_graphic()) || uri.contains(['<', '>', '"', '\'', '`', '\\'])
    {
        return says(
            "must be a URI: printable ASCII without spaces, quotes, backslashes, < and >; encode others as %XX",
        );
    }
    let Some((scheme, rest)) = uri.split_once("://") else {
        return says("must be a libvirt URI such as qemu:///system or qemu+ssh://root@host/system");
    };
    if !SCHEMES.contains(&scheme) {
        return Some(format!("begins with {scheme}: must be one of {}", SCHEMES.join(", ")));
    }
    if scheme == "test" && !mocks {
        return says(
            "is libvirt's mock host, whose guests are records and never run: give a qemu URI, or set allow_test_hosts where that is what you want",
        );
    }
    if rest.contains('#') {
        return says("must not have a fragment (#)");
    }
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let Some((authority, path)) = before.split_once('/') else {
        return says("must name a path: /system or /session");
    };
    authority_fault(scheme, authority)
        .or_else(|| path_fault(scheme, path))
        .or_else(|| query.split('&').filter(|p| !p.is_empty()).find_map(parameter_fault))
}

fn authority_fault(scheme: &str, authority: &str) -> Option<String> {
    let says = |text: &str| Some(text.to_owned());
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if user.is_some_and(|user| user.contains(':')) {
        return says(
            "must not hold a password, which all who read hosts would see: use a key or a certificate",
        );
    }
    let local = matches!(scheme, "qemu+unix" | "test");
    if local && !authority.is_empty() {
        return Some(format!(
            "{scheme} is on this machine: leave the host name out, as in {scheme}:///"
        ));
    }
    let remote = matches!(scheme, "qemu+tls" | "qemu+ssh" | "qemu+tcp");
    if host.is_empty() && (remote || user.is_some()) {
        return Some(format!("must name a host: {scheme}://HOST/system"));
    }
    // A name that begins with a hyphen would be read as an option by ssh.
    let fits = |text: &str, more: &str| {
        !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    if user.is_some_and(|user| user.is_empty() || !fits(user, "._-")) {
        return says(
            "the user may hold letters, digits, '.', '_' and '-', and must not begin with '-'",
        );
    }
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, after)) if name.parse::<std::net::Ipv6Addr>().is_ok() => {
                (name, after.strip_prefix(':').or((!after.is_empty()).then_some("x")))
            }
            Some(_) | None => return says("the host in brackets must be an IPv6 address"),
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    if !host.starts_with('[') && !fits(name, ".-") {
        return says(
            "the host may hold letters, digits, '.' and '-', or be an IPv6 address in brackets",
        );
    }
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return says("the port must be 1 to 65535");
    }
    None
}

fn path_fault(scheme: &str, path: &str) -> Option<String> {
    // `qemu:///embed` would run the driver within this process. A mock host's file is its first state.
    let (fits, allowed) = match scheme {
        "test" => (!path.is_empty(), "/default or the path of a file"),
        _ => (matches!(path, "system" | "session"), "/system or /session"),
    };
    (!fits).then(|| format!("the path is /{path}: must be {allowed}"))
}

fn parameter_fault(parameter: &str) -> Option<String> {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    if matches!(name, "command" | "netcat") {
        return Some(format!(
            "must not have the parameter {name}, which names a program to run: have ssh and nc in their usual places"
        ));
    }
    if !PARAMETERS.contains(&name) {
        let known = PARAMETERS.join(", ");
        return Some(format!("has the parameter {name:?}, which is none of {known}"));
    }
    let Some(value) = decoded(value) else {
        return Some(format!(
            "the parameter {name} is not well encoded: % must be followed by two hex digits"
        ));
    };
    if value.iter().any(u8::is_ascii_control) {
        return Some(format!("the parameter {name} must not hold control characters"));
    }
    let file = matches!(name, "socket" | "keyfile" | "known_hosts" | "pkipath");
    if file && value.first() != Some(&b'/') {
        return Some(format!("the parameter {name} must be an absolute path"));
    }
    None
}

/// Percent-decoding (RFC 3986); none where it is malformed.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            out.push(high * 16 + low);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ways_to_reach_a_host_are_taken() {
        for uri in [
            "qemu:///system",
            "qemu:///session",
            "qemu://host.example/system",
            "qemu+unix:///system?socket=/run/lab/libvirt-sock",
            "qemu+tls://host-1.example:16514/system?pkipath=/etc/pki&no_verify=1",
            "qemu+ssh://root@10.0.0.1/system?keyfile=/root/.ssh/id%5fed25519",
            "qemu+tcp://[fd00::1]:16509/system",
            "test:///default",
            "test:///var/lib/mock/node.xml",
        ] {
            assert_eq!(fault(uri, true), None, "{uri}");
            assert_eq!(fault(uri, false).is_some(), uri.starts_with("test:"), "{uri}");
        }
    }

    #[test]
    fn a_daemon_is_the_same_however_it_is_reached() {
        assert!(same_daemon("qemu:///system", "qemu+ssh://root@node7/system?no_tty=1"));
        assert!(!same_daemon("qemu:///system", "qemu:///session"));
        assert!(!same_daemon("qemu:///system", "test:///system"));
    }

    #[test]
    fn what_runs_a_program_holds_a_secret_or_misleads_is_refused_with_its_reason() {
        for (uri, why) in [
            ("", "1 to 512 bytes"),
            ("qemu:/system", "libvirt URI"),
            ("xen:///system", "one of qemu"),
            ("qemu+ext://h/system?command=/bin/sh", "one of qemu"),
            ("qemu+libssh2://h/system", "one of qemu"),
            ("qemu+ssh://h/system?command=/bin/sh", "names a program"),
            ("qemu+ssh://h/system?no_tty=1&netcat=/bin/sh", "names a program"),
            ("qemu+ssh://root:secret@h/system", "password"),
            ("qemu+ssh://-oProxyCommand=x/system", "host may hold"),
            ("qemu+ssh://-l@h/system", "user may hold"),
            ("qemu+ssh:///system", "must name a host"),
            ("qemu+unix://h/system", "on this machine"),
            ("test://h/default", "on this machine"),
            ("test:///", "must be /default"),
            ("qemu:///embed?root=/tmp", "/system or /session"),
            ("qemu://h", "must name a path"),
            ("qemu+tcp://h:0/system", "port"),
            ("qemu+tcp://h:x/system", "port"),
            ("qemu+tcp://[fd00::1]x/system", "port"),
            ("qemu+tcp://[fd00::1/system", "IPv6"),
            ("qemu+tcp://[::g]/system", "IPv6"),
            ("qemu:///system#x", "fragment"),
            ("qemu:///system?name=x", "none of"),
            ("qemu:///system?socket=relative", "absolute"),
            ("qemu:///system?socket=/a%0ab", "control"),
            ("qemu:///system?socket=/a%zz", "hex digits"),
            ("qemu:///sys tem", "printable"),
            ("qemu:///system\n", "printable"),
            ("qemu:///système", "printable"),
            ("qemu:///system?socket=/<x>", "printable"),
        ] {
            let said = fault(uri, true).unwrap_or_else(|| panic!("{uri:?} was taken"));
            assert!(said.contains(why), "{uri:?}: {said}");
        }
        assert!(fault(&format!("qemu:///system?socket=/{}", "x".repeat(URI_MAX)), true).is_some());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_taken_is_plain(text in "(qemu(\\+(ssh|tcp|unix))?|test)://\\PC{0,60}") {
            if fault(&text, true).is_none() {
                prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(!text.contains("command=") || text.contains("/command="));
            }
        }
    }
}
