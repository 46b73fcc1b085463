//! Keyset pages: a limit, and an opaque cursor that names the last thing seen.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use utoipa::ToSchema;
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
        let limit = parse_limit(limit)?;
        let after = match cursor {
            None => Uuid::nil(),
            Some(text) => URL_SAFE_NO_PAD
                .decode(text)
                .ok()
                .and_then(|bytes| Uuid::from_slice(&bytes).ok())
                .ok_or_else(foreign)?,
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
        let next = rows.last().map(|row| Self::cursor(id(row)));
        (rows, next)
    }

    /// The cursor of the page that begins after `last`.
    pub fn cursor(last: Uuid) -> String {
        URL_SAFE_NO_PAD.encode(last.as_bytes())
    }
}

/// Which end of a numbered list comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "asc")]
pub enum Order {
    /// Oldest first.
    #[default]
    Asc,
    /// Newest first.
    Desc,
}

/// A request for a part of a list that is numbered from 1: what lies between `after` and `before`, from the end that `order`
/// names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqPage {
    /// 1 to 1000.
    pub limit: i64,
    pub order: Order,
    /// Only numbers above this one; 0 for all.
    pub after: i64,
    /// Only numbers below this one; `i64::MAX` for all.
    pub before: i64,
}

impl SeqPage {
    /// `after` is a number that the client saw; the cursor takes its place, or bounds the other end where the newest come first.
    pub fn parse(
        limit: Option<i64>,
        order: Order,
        after: Option<i64>,
        cursor: Option<&str>,
    ) -> Result<Self> {
        let limit = parse_limit(limit)?;
        let after = after.unwrap_or(0);
        if after < 0 {
            return Err(Error::field("?after", format!("must be 0 or more, is {after}")));
        }
        let page = Self { limit, order, after, before: i64::MAX };
        let Some(text) = cursor else { return Ok(page) };
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|b| <[u8; 8]>::try_from(b).ok());
        let seen = bytes.map(i64::from_be_bytes).filter(|seq| *seq > 0).ok_or_else(foreign)?;
        Ok(match order {
            Order::Asc => Self { after: after.max(seen), ..page },
            Order::Desc => Self { before: seen, ..page },
        })
    }

    /// How many rows to ask for: one more than the page, which tells whether there is a next one.
    pub fn fetch(&self) -> i64 {
        self.limit + 1
    }

    /// Cuts `rows` to the page and gives the cursor of the next, if there is one.
    pub fn cut<T>(&self, mut rows: Vec<T>, seq: impl Fn(&T) -> i64) -> (Vec<T>, Option<String>) {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        if rows.len() <= limit {
            return (rows, None);
        }
        rows.truncate(limit);
        let next = rows.last().map(|row| URL_SAFE_NO_PAD.encode(seq(row).to_be_bytes()));
        (rows, next)
    }
}

fn parse_limit(limit: Option<i64>) -> Result<i64> {
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Error::field("?limit", format!("must be 1 to {LIMIT_MAX}, is {limit}")));
    }
    Ok(limit)
}

fn foreign() -> Error {
    Error::field(
        "?cursor",
        "is not a cursor of ours: pass `next` of the page before, or leave it out",
    )
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
    fn a_cursor_of_numbers_leads_on_in_either_direction() {
        let page = SeqPage::parse(Some(2), Order::Asc, Some(3), None).expect("page");
        let (rows, next) = page.cut(vec![4, 5, 6], |seq| *seq);
        assert_eq!(rows, [4, 5]);
        let on = SeqPage::parse(Some(2), Order::Asc, Some(3), next.as_deref()).expect("cursor");
        assert_eq!((on.after, on.before), (5, i64::MAX));
        let back = SeqPage::parse(Some(2), Order::Desc, Some(3), next.as_deref()).expect("cursor");
        assert_eq!((back.after, back.before), (3, 5));
        let foreign = SeqPage::parse(None, Order::Asc, None, Some("AAAAAAAAAAA"));
        assert!(foreign.is_err_and(|e| e.to_string().contains("?cursor")));
    }

    #[test]
    fn a_foreign_cursor_and_an_odd_limit_are_refused_by_name() {
        assert!(Page::parse(None, Some("zz")).is_err_and(|e| e.to_string().contains("?cursor")));
        assert!(Page::parse(Some(0), None).is_err_and(|e| e.to_string().contains("?limit")));
    }
}
