//! Keyset pages: a limit, and an opaque cursor that names the last thing seen.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::error::{Error, Result};

pub const LIMIT_DEFAULT: i64 = 100;
pub const LIMIT_MAX: i64 = 1000;

/// A request for the things after `after`, in order of id (which is the order of creation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// 1 to 1000.
    pub limit: i64,
    /// The nil UUID for the first page.
    pub after: Uuid,
}

impl Page {
    pub fn parse(limit: Option<i64>, cursor: Option<&str>) -> Result<Self> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Error::field("?limit", format!("must be 1 to {LIMIT_MAX}, is {limit}")));
        }
        let after = match cursor {
            None => Uuid::nil(),
            Some(text) => URL_SAFE_NO_PAD
                .decode(text)
                .ok()
                .and_then(|bytes| Uuid::from_slice(&bytes).ok())
                .ok_or_else(|| {
                    Error::field(
                        "?cursor",
                        "is not a cursor of ours: pass `next` of the page before, or leave it out",
                    )
                })?,
        };
        Ok(Self { limit, after })
    }

    /// How many rows to ask for: one more than the page, which tells whether there is a next one.
    pub fn fetch(&self) -> i64 {
        self.limit + 1
    }

    /// Cuts `rows` to the page and gives the cursor of the next, if there is one.
    pub fn cut<T>(&self, mut rows: Vec<T>, id: impl Fn(&T) -> Uuid) -> (Vec<T>, Option<String>) {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        if rows.len() <= limit {
            return (rows, None);
        }
        rows.truncate(limit);
        let next = rows.last().map(|row| URL_SAFE_NO_PAD.encode(id(row).as_bytes()));
        (rows, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_to_the_row_after_the_last_one_seen() {
        let ids: Vec<_> = (1..=3).map(Uuid::from_u128).collect();
        let page = Page::parse(Some(2), None).expect("page");
        let (rows, next) = page.cut(ids, |id| *id);
        assert_eq!(rows.len(), 2);
        let second = Page::parse(Some(2), next.as_deref()).expect("cursor");
        assert_eq!(second.after, Uuid::from_u128(2));
    }

    #[test]
    fn a_foreign_cursor_and_an_odd_limit_are_refused_by_name() {
        assert!(Page::parse(None, Some("zz")).is_err_and(|e| e.to_string().contains("?cursor")));
        assert!(Page::parse(Some(0), None).is_err_and(|e| e.to_string().contains("?limit")));
    }
}
