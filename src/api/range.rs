//! Which part of a file a request asks for: one range of bytes, as RFC 9110 has it (13.1.5, 14.1.2, 14.2).

use axum::http::{HeaderMap, HeaderName, header};

/// What of a file is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Nobody asked for less, or in words that may be passed over: several ranges, another unit, no range at all.
    All,
    /// At least one byte.
    Bytes { from: u64, length: u64 },
    /// A range in which the file has no byte.
    Nothing,
}

/// What `Range` asks for of `size` bytes, if `If-Range` names them by `tag`, their ETag.
pub fn asked(headers: &HeaderMap, size: u64, tag: &str) -> Part {
    let Some(range) = only(headers, header::RANGE) else { return Part::All };
    if headers.contains_key(header::IF_RANGE) && only(headers, header::IF_RANGE) != Some(tag) {
        return Part::All;
    }
    within(range, size).unwrap_or(Part::All)
}

/// The header's value, if there is one and no more.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| value.trim())
}

fn within(range: &str, size: u64) -> Option<Part> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.trim().split_once('-').filter(|_| unit == "bytes")?;
    let (from, length) = if first.is_empty() {
        let length = number(last)?.min(size);
        (size - length, length)
    } else {
        let from = number(first)?;
        let last = if last.is_empty() { u64::MAX } else { number(last)? };
        if last < from {
            return None;
        }
        (from, last.min(size.saturating_sub(1)).saturating_add(1).saturating_sub(from))
    };
    Some(if from < size && length > 0 { Part::Bytes { from, length } } else { Part::Nothing })
}

/// One that is too large for us is larger than any file.
fn number(digits: &str) -> Option<u64> {
    let sound = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    sound.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of_ten(range: &str) -> Part {
        let headers = [(header::RANGE, HeaderValue::from_str(range).expect("a value"))];
        asked(&HeaderMap::from_iter(headers), 10, "\"a\"")
    }

    #[test]
    fn one_range_is_cut_to_what_is_there() {
        let bytes = |from, length| Part::Bytes { from, length };
        for (range, part) in [
            ("bytes=0-0", bytes(0, 1)),
            ("bytes=2-5", bytes(2, 4)),
            ("bytes=2-", bytes(2, 8)),
            ("bytes=9-99999999999999999999999", bytes(9, 1)),
            ("bytes=-3", bytes(7, 3)),
            ("bytes=-11", bytes(0, 10)),
            ("bytes=10-", Part::Nothing),
            ("bytes=99999999999999999999999-", Part::Nothing),
            ("bytes=-0", Part::Nothing),
        ] {
            assert_eq!(of_ten(range), part, "{range}");
        }
        assert_eq!(within("bytes=0-", 0), Some(Part::Nothing));
        assert_eq!(within("bytes=-1", 0), Some(Part::Nothing));
    }

    #[test]
    fn what_is_no_single_range_of_bytes_is_passed_over() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=0-1,4-5",
            "bytes=1",
            "lines=0-1",
            "bytes 0-1",
            "bytes=0--1",
            "bytes=1-2-3",
        ] {
            assert_eq!(of_ten(range), Part::All, "{range}");
        }
    }

    #[test]
    fn a_range_of_other_bytes_is_none_of_these() {
        let value = HeaderValue::from_static;
        let with = |tag| {
            let headers = [(header::RANGE, value("bytes=1-")), (header::IF_RANGE, value(tag))];
            asked(&HeaderMap::from_iter(headers), 10, "\"a\"")
        };
        assert_eq!(with("\"a\""), Part::Bytes { from: 1, length: 9 });
        for other in ["\"b\"", "W/\"a\"", "Thu, 26 Nov 2026 00:00:00 GMT", "*", ""] {
            assert_eq!(with(other), Part::All, "{other}");
        }
    }
}
