//! cloud-init's result file, as a guest holds it: whether cloud-init has finished, and with which errors.
//!
//! Format: `{"v1": {"datasource": …, "errors": […]}}`, which cloud-init writes whole when its last stage ends, and which lies on
//! a file system that forgets it at every power-on.

use serde::Deserialize;

/// Where it is.
pub const RESULT: &str = "/run/cloud-init/result.json";
/// So much of it is read: mostly it has a hundred bytes.
pub const RESULT_MAX: usize = 64 << 10;
/// So many errors are kept, and so many characters of each.
const ERRORS_MAX: usize = 10;
const ERROR_MAX: usize = 500;

#[derive(Deserialize)]
struct Result {
    v1: Version1,
}

#[derive(Deserialize)]
struct Version1 {
    errors: Vec<String>,
}

/// cloud-init's errors; `None`: these bytes are no result. They are the guest's, which may write there what it likes.
pub fn errors(bytes: &[u8]) -> Option<Vec<String>> {
    if bytes.len() >= RESULT_MAX {
        return Some(vec![format!("{RESULT} in the guest is too long to be read")]);
    }
    let result: Result = serde_json::from_slice(bytes).ok()?;
    Some(result.v1.errors.iter().take(ERRORS_MAX).map(|error| plain(error)).collect())
}

/// One line of bounded length without control characters: PostgreSQL takes no NUL, and a terminal should take no escape.
fn plain(text: &str) -> String {
    text.chars().take(ERROR_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_gives_its_errors_and_anything_else_is_none() {
        let result =
            br#"{"v1": {"datasource": "DataSourceNoCloud [seed=/dev/vdb]", "errors": []}}"#;
        assert_eq!(errors(result), Some(vec![]));
        let failed = br#"{"v1": {"datasource": null, "errors": ["('runcmd', \u001b[2J)", "b"]}}"#;
        assert_eq!(errors(failed), Some(vec!["('runcmd',  [2J)".into(), "b".into()]));
        for other in [
            "",
            "{",
            "null",
            "[]",
            r#"{"v1": {}}"#,
            r#"{"v1": {"errors": "none"}}"#,
            r#"{"v1": {"errors": [1]}}"#,
            r#"{"v1": {"errors": []}} {"#,
            "\u{0}\u{0}",
        ] {
            assert_eq!(errors(other.as_bytes()), None, "{other:?}");
        }
        assert_eq!(errors(b"\xff\xfe"), None);
    }

    #[test]
    fn what_a_guest_writes_there_is_kept_in_bounds() {
        let long = "é".repeat(2000);
        let many = serde_json::json!({"v1": {"errors": vec![format!("a\u{0}b{long}"); 50]}});
        let kept = errors(many.to_string().as_bytes()[..].get(..).unwrap());
        // 50 × 4 kB is too long altogether.
        assert_eq!(kept.map(|kept| kept.len()), Some(1));
        let few = serde_json::json!({"v1": {"errors": vec![format!("a\u{0}b{long}"); 12]}});
        let kept = errors(few.to_string().as_bytes()).unwrap();
        assert_eq!(kept.len(), ERRORS_MAX);
        assert!(kept.iter().all(|e| e.chars().count() == ERROR_MAX && e.starts_with("a b")));
        // Nesting cannot overflow the stack.
        assert_eq!(errors("[".repeat(60_000).as_bytes()), None);
    }
}
