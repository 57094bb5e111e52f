//! Pages: a cursor is the last row's key, so that what comes and goes meanwhile shifts nothing.

use super::query::Query;
use super::{Parameter, ParameterKind};
use crate::problem::Problem;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Rows of a page, unless it is said.
pub(super) const LIMIT: i64 = 100;

/// Most rows of a page.
pub(super) const LIMIT_MAX: i64 = 1000;

/// The parameter `limit`.
pub const LIMIT_PARAMETER: Parameter = Parameter {
    name: "limit",
    description: "Most rows of the page: 1 to 1000, default 100.",
    kind: ParameterKind::PageSize,
};

/// The parameter `cursor`.
pub const CURSOR_PARAMETER: Parameter = Parameter {
    name: "cursor",
    description: "`next_cursor` of the page before.",
    kind: ParameterKind::Text,
};

/// Rows that one request looks at where a narrowed key sees only some of them. Its page may then be
/// shorter than `limit`, with a cursor.
pub const SCANNED_MAX: usize = 10_000;

/// The page that is asked for.
#[derive(Debug)]
pub struct Page {
    limit: u32,
    /// The key behind which it begins.
    pub after: Option<String>,
}

impl Page {
    /// From the query.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn of(query: &Query) -> Result<Self, Problem> {
        let limit = query.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT);
        let after = query.text("cursor").map(|cursor| {
            let key = URL_SAFE_NO_PAD.decode(cursor).ok();
            let key = key.and_then(|key| String::from_utf8(key).ok());
            key.ok_or_else(wrong_cursor)
        });
        Ok(Self {
            limit: u32::try_from(limit).unwrap_or(1),
            after: after.transpose()?,
        })
    }

    /// The key that the page begins behind, as a number that falls; the largest for the first page.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn before(&self) -> Result<i64, Problem> {
        match &self.after {
            None => Ok(i64::MAX),
            Some(key) => key.parse().map_err(|_| wrong_cursor()),
        }
    }

    /// How many rows to ask for: one more than are shown tells whether there is another page.
    pub fn rows(&self) -> u32 {
        self.limit + 1
    }

    /// How many rows are shown at most.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// The cursor of a page that begins after this key.
    pub fn cursor(key: &str) -> String {
        URL_SAFE_NO_PAD.encode(key)
    }

    /// Cuts the rows to the page; the cursor of the next one, if there is one.
    pub fn cut<T>(&self, rows: &mut Vec<T>, key: impl Fn(&T) -> String) -> Option<String> {
        let limit = self.limit as usize;
        if rows.len() <= limit {
            return None;
        }
        rows.truncate(limit);
        rows.last().map(|row| URL_SAFE_NO_PAD.encode(key(row)))
    }
}

/// The cursor was not made here, or for something else.
pub fn wrong_cursor() -> Problem {
    Problem::invalid("the cursor is not one that this path gave")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> Result<Page, Problem> {
        let known = [LIMIT_PARAMETER, CURSOR_PARAMETER];
        Page::of(&Query::read(Some(query), &known).unwrap())
    }

    #[test]
    fn a_cursor_leads_to_the_next_page_and_a_forged_one_nowhere() {
        let first = page("limit=2").unwrap();
        assert_eq!((first.rows(), first.before().unwrap()), (3, i64::MAX));
        let mut rows = vec![9, 8, 7];
        let next = first.cut(&mut rows, i32::to_string).unwrap();
        assert_eq!(rows, [9, 8]);
        let second = page(&format!("limit=2&cursor={next}")).unwrap();
        assert_eq!(second.before().unwrap(), 8);
        assert_eq!(second.cut(&mut vec![7, 6], i32::to_string), None);
        assert!(page("cursor=!!").is_err());
        assert!(page("cursor=eHg").unwrap().before().is_err());
        for limit in ["limit=0", "limit=1001", "limit=x", "limit=-1"] {
            assert!(page(limit).is_err(), "{limit}");
        }
    }
}
