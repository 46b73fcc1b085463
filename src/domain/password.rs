//! Passwords as people send them: never printed, never written out.

use std::fmt;

use serde::Deserialize;

use super::error::{Error, Result};

/// Fewest characters of a new password (NIST SP 800-63B asks for length, and for nothing else).
pub const PASSWORD_MIN: usize = 12;
/// Most characters of any password.
pub const PASSWORD_MAX: usize = 256;

/// A password in clear. It has no `Serialize`, and its `Debug` says nothing.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the hash and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The bound of a password that is only compared: it keeps the hash from chewing on megabytes.
    pub fn check_length(&self, pointer: &str) -> Result<()> {
        if self.0.chars().count() > PASSWORD_MAX {
            return Err(Error::field(pointer, format!("may have up to {PASSWORD_MAX} characters")));
        }
        Ok(())
    }

    /// The bounds of a password that is to be kept.
    pub fn check_new(&self, pointer: &str) -> Result<()> {
        let length = self.0.chars().count();
        if !(PASSWORD_MIN..=PASSWORD_MAX).contains(&length) {
            let detail = format!(
                "must have {PASSWORD_MIN} to {PASSWORD_MAX} characters, has {length}: a few words in a row will do"
            );
            return Err(Error::field(pointer, detail));
        }
        Ok(())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed_nor_told_in_an_error() {
        let password = Password::new("hunter2");
        assert_eq!(format!("{password:?}"), "***");
        let error = password.check_new("/password").expect_err("too short").to_string();
        assert!(error.contains("/password") && !error.contains("hunter2"), "{error}");
    }
}
