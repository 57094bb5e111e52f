//! The key `rewrite` of an endpoint: which fields of a response are rewritten. `dispatcher::rewrite` does it.

/// Fields of an endpoint's responses that are rewritten: `rewrite = ["location", "cookies"]`. Defaults to none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rewrite {
    /// `"location"`: the fields `Location` and `Content-Location`.
    pub(crate) location: bool,
    /// `"cookies"`: `Path` and `Domain` in the fields `Set-Cookie`, so that a cookie is sent to this endpoint alone.
    pub(crate) cookies: bool,
}

impl Rewrite {
    /// Reads the words of an entry.
    ///
    /// # Errors
    /// The accepted values, if a value is unknown or repeated.
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let mut rewrite = Self::default();
        for word in words {
            let part = match word.as_str() {
                "location" => &mut rewrite.location,
                "cookies" => &mut rewrite.cookies,
                _ => {
                    return Err(format!(
                        "{word:?} cannot be rewritten: write \"location\", \"cookies\", or both"
                    ));
                }
            };
            if std::mem::replace(part, true) {
                return Err(format!(
                    "{word:?} is repeated: write \"location\" and \"cookies\" once each"
                ));
            }
        }
        Ok(rewrite)
    }

    /// Returns whether responses pass unchanged.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
