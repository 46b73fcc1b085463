//! Tests of `domain::keypair`; the keys and fingerprints are ssh-keygen's.

use proptest::prelude::*;

use super::*;

const ED25519: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIBcWIJUgQcnhaeLmN0ARKdMM40WVFUIJU3TkPQHwfTN";
const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCXOvY96pKDo4h/cikCdVweem369r8IiFF7w1Yh4YzLC5mHMcfazJ4s6J2j09GeSIJHLdT0IqVnwRlDcm3B+D9PGsKykz8z5ZrAAzJ7dBbt7ToJznSCVw9Jr/0wE7cfF34byRz/UWx1QOYi4xYpKVyN2NN3+2ajOk6n8O+pVXv4roXnitkvwEmwUDZtiAhB9/jbJCeuulWXsyWJMjKWMZxLM4skBCxuIiGU+7NEWjbBqx2NXX3ulIc1f8lxDqnVu9xdYlkYAva4MIshNFJ7LMMaZKeK8wKN/vRL74P3xdRgh4vvwjs25kl3zVMrMjvkG/if2MenHeOdlj/sh7/gizBT";
const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC0JSnTvduaS7XOtfXODy0apbuFeczhIofuuChMw+4IWbHd0TVKv5CiRDxo5NKH/Blvq+JyedFHfl/yrZTek707Ii21QlI+r1Ui+tgejP02qVZtiWn/sACICrIwj4dZem+l2it85+Lmac5K+EaE4pjcAJU8SoFSNGDXpf/itds6dQ==";
const P256: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNOd/Y54HklINk/feNtsxoOfiok6ve4Yj/sZlITGkY78L1EZAlM3Z+rDXvUKaHpJVj++EonNjZY52ZYcNKxFAks=";
const P384: &str = "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBIGj+LOjR2WkaaF97FTVQCPEahxq9eD/QR/uUDcaoLGMqe8CEuRr9OMSjM6C+wFRpJ5wEcDrbqlCeucPb+edJhRFSoWXTEYLx8npo8g5KIkTBKoItqS5ihUk5oBAt0jfWg==";
const P521: &str = "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAG/5a3Av8NuCnAlnd+LmWSaOsnmLJyyZPl/7tJ+1vQiS4suUWDNoTB1vyOsmTAYduuoOhLqC2Bi5QQWzpWdg8TynQGeEuJLHyLBAXcAzGDk6SgJsM7Twduj/5pbG0rU5nKc9VptNNNQ2Mio72sRiP3lkdL+VyDGYj31KPz95bEnFKDSKQ==";

fn blob(fields: &[&[u8]]) -> String {
    let length = |field: &[u8]| u32::try_from(field.len()).expect("short").to_be_bytes();
    let bytes: Vec<u8> =
        fields.iter().flat_map(|field| [&length(field)[..], field].concat()).collect();
    STANDARD.encode(bytes)
}

fn fault(text: &str) -> String {
    PublicKey::parse("/public_key", text).expect_err("it was taken").to_string()
}

#[test]
fn keys_get_the_fingerprint_that_ssh_keygen_prints() {
    for (line, fingerprint) in [
        (ED25519, "SHA256:lSLU5QEHAwE1Y9lkkikwK2C9vegOOBfQuIXpg+a2XMA"),
        (RSA, "SHA256:izN57ZCmnS2yipvmfKzKG+es/HLYbU9RnNCJC1ILS1E"),
        (P256, "SHA256:18Daa5Pm/gMrcOsLpHYqC32vd474H4t/vOjFAO8Wd/w"),
        (P384, "SHA256:CLdq/poGEQLGdgNfyBTGHxmQRZUX0Fe1K8eT+tXe8AQ"),
        (P521, "SHA256:kgHE5XxSSIjZbzYjUgydYgwVikwDkA3zsWV8J6l5QnI"),
    ] {
        let key = PublicKey::parse("", line).expect("key");
        assert_eq!((key.line.as_str(), key.fingerprint.as_str()), (line, fingerprint));
        let key = PublicKey::parse("", &format!("  {line}  käthe  at home \r\n")).expect("key");
        assert_eq!(key.line, format!("{line} käthe  at home"));
        assert_eq!(key.fingerprint, fingerprint);
    }
}

#[test]
fn keys_on_security_keys_are_taken() {
    let sk = "sk-ssh-ed25519@openssh.com";
    let ed25519 = blob(&[sk.as_bytes(), &[7; 32], b"ssh:"]);
    assert!(PublicKey::parse("", &format!("{sk} {ed25519}")).is_ok());
    let sk = "sk-ecdsa-sha2-nistp256@openssh.com";
    let ecdsa = blob(&[sk.as_bytes(), b"nistp256", &[4; 65], b"ssh:laptop"]);
    assert!(PublicKey::parse("", &format!("{sk} {ecdsa}")).is_ok());
    let none = blob(&[sk.as_bytes(), b"nistp256", &[4; 65]]);
    assert!(fault(&format!("{sk} {none}")).contains("damaged"));
}

#[test]
fn a_private_key_is_refused_and_not_repeated() {
    let text = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n";
    let error = fault(text);
    assert!(error.contains("private key") && !error.contains("c2VjcmV0"), "{error}");
}

#[test]
fn what_sshd_would_not_take_is_refused_with_the_reason() {
    let body = ED25519.split(' ').nth(1).expect("body");
    let long = "x".repeat(256);
    for (text, reason) in [
        (String::new(), "must be one line such as"),
        ("hello".into(), "beginning with one of"),
        (format!("ssh-dss {body}"), "DSA"),
        (format!("no-pty {ED25519}"), "options"),
        (format!("command=\"id\",{ED25519}"), "options"),
        (format!("{ED25519}\n{ED25519}"), "one line"),
        (format!("{ED25519} a\u{7}b"), "printable"),
        (format!("{ED25519} a\u{202e}b"), "printable"),
        (format!("{ED25519} {long}"), "255"),
        (format!("ssh-ed25519 {}", "A".repeat(5000)), "4096"),
        ("ssh-ed25519".into(), "damaged"),
        ("ssh-ed25519 !!!".into(), "base64"),
        (format!("ssh-ed25519 {}", &body[..body.len() - 4]), "damaged"),
        (format!("ssh-ed25519 {body}AAAA"), "damaged"),
        (format!("ssh-rsa {body}"), "not of the type ssh-rsa"),
        (RSA_1024.into(), "2048 to 16384 bits, has 1024"),
        (format!("ssh-rsa {}", blob(&[b"ssh-rsa", &[1], &[0x7f; 256]])), "damaged"),
        (format!("ssh-rsa {}", blob(&[b"ssh-rsa", &[3], &[0xff; 256]])), "damaged"),
        (format!("ssh-rsa {}", blob(&[b"ssh-rsa", &[3], &[0x7f; 255]])), "has 2039"),
        (
            format!(
                "ecdsa-sha2-nistp256 {}",
                blob(&[b"ecdsa-sha2-nistp256", b"nistp384", &[4; 65]])
            ),
            "damaged",
        ),
        (
            format!(
                "ecdsa-sha2-nistp256 {}",
                blob(&[b"ecdsa-sha2-nistp256", b"nistp256", &[2; 65]])
            ),
            "damaged",
        ),
    ] {
        let error = fault(&text);
        assert!(error.starts_with("/public_key: ") && error.contains(reason), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..TYPES.len()) {
        let kind = TYPES[kind];
        let length = u32::try_from(kind.len()).expect("short").to_be_bytes();
        let body = STANDARD.encode([&length[..], kind.as_bytes(), &bytes].concat());
        if let Ok(key) = PublicKey::parse("", &format!("{kind} {body}")) {
            prop_assert_eq!(key.line, format!("{kind} {body}"));
        }
    }
}
