//! User data: what an instance's first boot is to do, passed on verbatim.

use super::error::{Error, Result};

/// Most bytes of user data.
pub const USER_DATA_MAX: usize = 64 * 1024;

/// Up to 64 KiB of UTF-8 (bytes, not characters) without NUL.
pub fn check_user_data(pointer: &str, text: &str) -> Result<()> {
    if text.len() > USER_DATA_MAX {
        let detail = format!(
            "may have up to {USER_DATA_MAX} bytes, has {}: let it fetch the rest",
            text.len()
        );
        return Err(Error::field(pointer, detail));
    }
    if let Some(at) = text.find('\0') {
        let detail =
            format!("must be text without NUL, has one at byte {at}: encode binary data in base64");
        return Err(Error::field(pointer, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_is_measured_in_bytes_and_holds_no_nul() {
        assert!(check_user_data("/user_data", &"ä".repeat(USER_DATA_MAX / 2)).is_ok());
        for bad in ["ä".repeat(USER_DATA_MAX / 2 + 1), "#!/bin/sh\0".into()] {
            let error = check_user_data("/user_data", &bad).expect_err("accepted");
            assert!(error.to_string().starts_with("/user_data: "), "{error}");
        }
    }
}
