//! Pages of lists. A cursor is the last row's key, so rows that are added or deleted meanwhile shift no
//! page.

use super::query::Query;
use super::{Parameter, ParameterKind};
use crate::problem::Problem;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Default number of rows of a page.
pub(super) const LIMIT: i64 = 100;

/// Largest number of rows of a page.
pub(super) const LIMIT_MAX: i64 = 1000;

/// The parameter `limit`.
pub(crate) const LIMIT_PARAMETER: Parameter = Parameter {
    name: "limit",
    description: "Maximum number of rows: 1 to 1000. Defaults to 100.",
    kind: ParameterKind::PageSize,
};

/// The parameter `cursor`.
pub(crate) const CURSOR_PARAMETER: Parameter = Parameter {
    name: "cursor",
    description: "The `next_cursor` of the previous page.",
    kind: ParameterKind::Text,
};

/// Rows that one request reads when a narrowed key sees only some of them. Its page may then be shorter
/// than `limit`, with a cursor.
pub(crate) const SCANNED_MAX: usize = 10_000;

/// The requested page.
#[derive(Debug)]
pub(crate) struct Page {
    limit: u32,
    /// The key after which the page begins.
    pub after: Option<String>,
}

impl Page {
    /// Reads the page from the query.
    ///
    /// # Errors
    /// `invalid_request`.
    pub(crate) fn of(query: &Query) -> Result<Self, Problem> {
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

    /// Returns the key before which the page begins, for keys that are descending numbers; the largest
    /// number for the first page.
    ///
    /// # Errors
    /// `invalid_request`.
    pub(crate) fn before(&self) -> Result<i64, Problem> {
        match &self.after {
            None => Ok(i64::MAX),
            Some(key) => key.parse().map_err(|_| wrong_cursor()),
        }
    }

    /// Returns how many rows to read: one more than the page has shows whether there is another page.
    pub(crate) fn rows(&self) -> u32 {
        self.limit + 1
    }

    /// Returns how many rows the page has at most.
    pub(crate) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Returns the cursor of a page that begins after this key.
    pub(crate) fn cursor(key: &str) -> String {
        URL_SAFE_NO_PAD.encode(key)
    }

    /// Cuts the rows to the page. Returns the cursor of the next page, if there is one.
    pub(crate) fn cut<T>(&self, rows: &mut Vec<T>, key: impl Fn(&T) -> String) -> Option<String> {
        let limit = self.limit as usize;
        // One row more than the page was read; without it this is the last page.
        if rows.len() <= limit {
            return None;
        }
        rows.truncate(limit);
        rows.last().map(|row| URL_SAFE_NO_PAD.encode(key(row)))
    }
}

/// Returns the problem for a cursor that this list did not give.
pub(crate) fn wrong_cursor() -> Problem {
    Problem::invalid("the cursor does not belong to this list")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> Result<Page, Problem> {
        let known = [LIMIT_PARAMETER, CURSOR_PARAMETER];
        Page::of(&Query::read(Some(query), &known).unwrap())
    }

    #[test]
    fn cursor_leads_to_the_next_page() {
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
