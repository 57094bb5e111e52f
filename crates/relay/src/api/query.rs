//! Query parameters. An unknown one is rejected, since a misspelt filter would otherwise show everything.

use super::Parameter;
use super::timestamp::Timestamp;
use crate::problem::Problem;

/// Size limit of a query in bytes.
const QUERY_MAX_BYTES: usize = 4096;

/// The query parameters of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    given: Vec<(String, String)>,
}

impl Query {
    /// Reads the query of a request.
    ///
    /// # Errors
    /// `invalid_request` for an unknown or repeated parameter.
    pub(crate) fn read(query: Option<&str>, known: &[Parameter]) -> Result<Self, Problem> {
        let query = query.unwrap_or_default();
        if query.len() > QUERY_MAX_BYTES {
            return Err(Problem::invalid(format!(
                "the query has {} bytes, the limit is {QUERY_MAX_BYTES}",
                query.len()
            )));
        }
        let mut given: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !known.iter().any(|parameter| parameter.name == name) {
                let names: Vec<_> = known.iter().map(|parameter| parameter.name).collect();
                // Escaped and cut: the name is the client's, and the text goes into logs.
                let shown: String = name.escape_debug().take(80).collect();
                return Err(Problem::invalid(match names.is_empty() {
                    true => format!("unknown parameter `{shown}`: this operation has none"),
                    false => format!(
                        "unknown parameter `{shown}`; known are: {}",
                        names.join(", ")
                    ),
                }));
            }
            // Two values could be read differently by the relay and by a proxy before it.
            if given.iter().any(|(other, _)| *other == name) {
                return Err(Problem::invalid(format!(
                    "the parameter {name} is repeated"
                )));
            }
            given.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { given })
    }

    /// Returns a parameter's text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let found = self.given.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns a parameter that is a number within bounds.
    ///
    /// # Errors
    /// `invalid_request`, with the bounds.
    pub(crate) fn number(&self, name: &str, min: i64, max: i64) -> Result<Option<i64>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|n| (min..=max).contains(n));
        let number = number.ok_or_else(|| {
            Problem::invalid(format!("{name} must be a whole number from {min} to {max}"))
        })?;
        Ok(Some(number))
    }

    /// Returns a parameter that is `true` or `false`.
    ///
    /// # Errors
    /// `invalid_request`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::invalid(format!("{name} must be true or false"))),
        }
    }

    /// Returns an RFC 3339 instant as milliseconds since 1970.
    ///
    /// # Errors
    /// `invalid_request`.
    pub(crate) fn instant_ms(&self, name: &str) -> Result<Option<i64>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let instant = Timestamp::parse(name, text).map_err(Problem::invalid)?;
        Ok(Some(instant.millis()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ParameterKind;
    use super::*;

    const KNOWN: &[Parameter] = &[Parameter {
        name: "limit",
        description: "",
        kind: ParameterKind::PageSize,
    }];

    #[test]
    fn unknown_parameter_is_rejected_by_name() {
        let wrong = Query::read(Some("limt=3"), KNOWN).unwrap_err();
        let detail = wrong.failure.detail;
        assert!(
            detail.contains("limt") && detail.contains("limit"),
            "{detail}"
        );
        assert!(Query::read(Some("limit=1&limit=2"), KNOWN).is_err());
        assert!(Query::read(Some("a=b"), &[]).is_err());
        let query = Query::read(Some("limit=%33"), KNOWN).unwrap();
        assert_eq!(query.number("limit", 1, 10).unwrap(), Some(3));
        assert!(query.number("limit", 4, 10).is_err());
        assert_eq!(Query::read(None, KNOWN).unwrap().text("limit"), None);
    }
}
