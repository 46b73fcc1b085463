//! Keypairs: public SSH keys, parsed strictly, so that what is stored is what a guest's sshd will take.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::error::{Error, Result};
use super::id::{KeypairId, TenantId, UserId};
use super::text::Name;

/// Longest public key line, in bytes: room for RSA of 16,384 bits.
pub const LINE_MAX: usize = 4096;
pub const COMMENT_MAX: usize = 255;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=16384;

/// A public SSH key that instances are given by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Keypair {
    pub id: KeypairId,
    pub tenant_id: TenantId,
    /// Unique in the tenant.
    pub name: Name,
    /// One line, as in `authorized_keys`.
    #[schema(
        max_length = 4096,
        example = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIBcWIJUgQcnhaeLmN0ARKdMM40WVFUIJU3TkPQHwfTN laptop"
    )]
    pub public_key: String,
    /// As `ssh-keygen -l` prints it.
    #[schema(max_length = 50, example = "SHA256:lSLU5QEHAwE1Y9lkkikwK2C9vegOOBfQuIXpg+a2XMA")]
    pub fingerprint: String,
    pub created_by: Option<UserId>,
    pub created_at: DateTime<Utc>,
    /// The ETag; a keypair never changes.
    #[schema(minimum = 1, example = 1)]
    pub revision: i64,
}

/// What a new keypair is made of.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKeypair {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces; unique in the tenant.
    #[schema(min_length = 1, max_length = 63, example = "laptop")]
    pub name: String,
    /// One line in OpenSSH's format, such as the content of `id_ed25519.pub`: ed25519, RSA of at least 2048 bits, ECDSA, or one
    /// of the first or last on a security key.
    #[schema(
        min_length = 1,
        max_length = 4096,
        example = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIBcWIJUgQcnhaeLmN0ARKdMM40WVFUIJU3TkPQHwfTN laptop"
    )]
    pub public_key: String,
}

impl NewKeypair {
    pub fn check(&self) -> Result<(Name, PublicKey)> {
        match (Name::parse("/name", &self.name), PublicKey::parse("/public_key", &self.public_key))
        {
            (Ok(name), Ok(key)) => Ok((name, key)),
            (Err(Error::Invalid(a)), Err(Error::Invalid(b))) => {
                Err(Error::Invalid([a, b].concat()))
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }
}

/// A public key that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Type, base64 and comment, with one space between.
    pub line: String,
    /// `SHA256:` and unpadded base64.
    pub fingerprint: String,
}

impl PublicKey {
    /// One line of OpenSSH's format (RFC 4253, 6.6, and OpenSSH's PROTOCOL.u2f for security keys). No error repeats the text:
    /// it might be a private key.
    pub fn parse(pointer: &str, text: &str) -> Result<Self> {
        parse(text).map_err(|detail| Error::field(pointer, detail))
    }
}

const TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

fn parse(text: &str) -> Result<PublicKey, String> {
    if text.contains("PRIVATE KEY-----") {
        return Err("this is a private key, which nobody else should have: send the .pub file beside it, and replace the key if others may have seen this request".into());
    }
    if text.len() > LINE_MAX {
        return Err(format!("may have up to {LINE_MAX} bytes, has {}", text.len()));
    }
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    if text.contains(['\r', '\n']) {
        return Err("must be one line: make a keypair for each key".into());
    }
    let mut parts = text.splitn(3, [' ', '\t']);
    let (kind, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let comment = parts.next().unwrap_or_default().trim_matches([' ', '\t']);
    if !TYPES.contains(&kind) {
        return Err(unknown(kind, text));
    }
    if comment.chars().count() > COMMENT_MAX || !comment.chars().all(is_printable) {
        return Err(format!(
            "the comment may have up to {COMMENT_MAX} characters, all of them printable"
        ));
    }
    let blob = STANDARD.decode(body).map_err(|error| {
        format!("the second word must be the key in base64: {error}; copy the whole line again")
    })?;
    check(kind, &blob)?;
    let digest = STANDARD_NO_PAD.encode(Sha256::digest(&blob));
    Ok(PublicKey {
        line: [kind, body, comment].join(" ").trim_end().to_owned(),
        fingerprint: format!("SHA256:{digest}"),
    })
}

fn unknown(kind: &str, text: &str) -> String {
    let known = TYPES.join(", ");
    if kind == "ssh-dss" {
        return format!("DSA keys are not safe any more and sshd refuses them: use one of {known}");
    }
    if text.split([' ', '\t', ',', '"']).any(|word| TYPES.contains(&word)) {
        return "must begin with the key's type: options before it are not taken".into();
    }
    format!("must be one line such as \"ssh-ed25519 AAAA… comment\", beginning with one of {known}")
}

/// Neither control characters nor those that change how the text around them looks.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// The fields of a key's blob, for its type, and nothing after them.
fn check(kind: &str, blob: &[u8]) -> Result<(), String> {
    let mut fields = Fields(blob);
    if fields.next()? != kind.as_bytes() {
        return Err(format!("the key inside is not of the type {kind}: copy the whole line again"));
    }
    match kind {
        "ssh-ed25519" => fields.exactly(32)?,
        "sk-ssh-ed25519@openssh.com" => {
            fields.exactly(32)?;
            fields.application()?;
        }
        "ssh-rsa" => fields.rsa()?,
        "ecdsa-sha2-nistp256" => fields.point("nistp256", 32)?,
        "ecdsa-sha2-nistp384" => fields.point("nistp384", 48)?,
        "ecdsa-sha2-nistp521" => fields.point("nistp521", 66)?,
        "sk-ecdsa-sha2-nistp256@openssh.com" => {
            fields.point("nistp256", 32)?;
            fields.application()?;
        }
        other => return Err(unknown(other, "")),
    }
    if fields.0.is_empty() { Ok(()) } else { Err(damaged()) }
}

fn damaged() -> String {
    "the key is damaged: copy the whole line again".into()
}

/// Strings with their length before them (RFC 4251, 5).
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn next(&mut self) -> Result<&'b [u8], String> {
        let (length, rest) = self.0.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_huge| damaged())?;
        let (field, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(field)
    }

    fn exactly(&mut self, length: usize) -> Result<(), String> {
        if self.next()?.len() == length { Ok(()) } else { Err(damaged()) }
    }

    /// What the security key asks its owner for; `ssh:` and perhaps more.
    fn application(&mut self) -> Result<(), String> {
        let application = self.next()?;
        let fits = application.starts_with(b"ssh:")
            && application.len() <= 255
            && application.iter().all(u8::is_ascii_graphic);
        if fits { Ok(()) } else { Err(damaged()) }
    }

    /// Curve and uncompressed point.
    fn point(&mut self, curve: &str, size: usize) -> Result<(), String> {
        let named = self.next()? == curve.as_bytes();
        let point = self.next()?;
        let fits = point.len() == 1 + 2 * size && point[0] == 4;
        if named && fits { Ok(()) } else { Err(damaged()) }
    }

    /// Exponent and modulus, both odd.
    fn rsa(&mut self) -> Result<(), String> {
        let exponent = self.positive()?;
        let modulus = self.positive()?;
        let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
        if !odd(exponent) || !odd(modulus) || exponent == [1] || exponent.len() > 8 {
            return Err(damaged());
        }
        let bits = modulus.len() * 8 - modulus[0].leading_zeros() as usize;
        if RSA_BITS.contains(&bits) {
            return Ok(());
        }
        let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
        Err(format!(
            "an RSA key must have {least} to {most} bits, has {bits}: ssh-keygen -t ed25519 makes a good one"
        ))
    }

    /// A positive number without needless zeros, the sign's zero taken away.
    fn positive(&mut self) -> Result<&'b [u8], String> {
        match self.next()? {
            [0, rest @ ..] if rest.first().is_some_and(|byte| *byte >= 0x80) => Ok(rest),
            number if matches!(number.first(), Some(1..=0x7f)) => Ok(number),
            _ => Err(damaged()),
        }
    }
}

#[cfg(test)]
mod tests;
