//! What went wrong, in a line or more for people, and the exit code for scripts.

use reqwest::StatusCode;
use serde_json::Value;

/// An error with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    pub const REFUSED: u8 = 3;
    pub const NOT_FOUND: u8 = 4;
    pub const NOT_ALLOWED: u8 = 5;
    pub const NOT_IN_TIME: u8 = 6;
    pub const DIFFERS: u8 = 7;

    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// From an answer that is an error: the problem's detail and its fields, or what there is.
    pub fn of(status: StatusCode, request_id: Option<&str>, body: &[u8]) -> Self {
        let code = match status.as_u16() {
            404 => Self::NOT_FOUND,
            401 | 403 => Self::NOT_ALLOWED,
            400..=499 => Self::REFUSED,
            _ => 1,
        };
        let Ok(problem) = serde_json::from_slice::<Value>(body) else {
            return Self::new(code, format!("the server answered {status}: is it Pileus?"));
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut lines = vec![text(&problem["title"])];
        let fields = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
        if fields.is_empty() {
            lines = vec![format!("{}: {}", text(&problem["title"]), text(&problem["detail"]))];
        }
        let each = fields.iter().map(|field| (text(&field["pointer"]), text(&field["detail"])));
        lines.extend(each.map(|(pointer, detail)| format!("  {pointer}: {detail}")));
        lines.extend(problem.get("explanation").map(|explanation| format!("{explanation:#}")));
        if status.is_server_error() {
            lines.extend(request_id.map(|id| format!("  request id: {id}")));
        }
        let message = lines.join("\n");
        Self::new(code, message)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_is_told_with_its_fields_and_has_its_exit_code() {
        let body = json!({"title": "Invalid input", "detail": "d", "errors": [
            {"pointer": "/name", "detail": "must have 1 to 63 characters"}]});
        let failure =
            Failure::of(StatusCode::UNPROCESSABLE_ENTITY, None, body.to_string().as_bytes());
        assert_eq!(failure.message, "Invalid input\n  /name: must have 1 to 63 characters");
        assert_eq!(failure.code, 3);
        let body = json!({"title": "Not found", "detail": "there is no flavor x"});
        let failure = Failure::of(StatusCode::NOT_FOUND, None, body.to_string().as_bytes());
        assert_eq!(
            (failure.message.as_str(), failure.code),
            ("Not found: there is no flavor x", 4)
        );
        let failure = Failure::of(StatusCode::BAD_GATEWAY, Some("r1"), b"<html>");
        assert_eq!(failure.code, 1);
    }
}
