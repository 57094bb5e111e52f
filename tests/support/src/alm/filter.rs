//! `query={field[condition];field[condition]}`: read once, then asked of every entity.
//!
//! ```text
//! between fields   ;  means AND, and there is nothing else
//! in brackets      AND, OR, NOT, ( ), and > < = >= <= or GT LT EQ GE LE before a literal
//! literal          a word, or text in quotes; * stands for any text, in quotes too
//! ```
//!
//! Words are compared as they are written. Expressions of other entities' fields (`alias.field[...]`)
//! are not simulated.

mod condition;
mod tokens;

use super::entity::{Values, held};
use super::fault::Fault;
use super::schema::{EntityType, Kind};
use condition::Condition;

/// What a list is narrowed to.
#[derive(Debug, Default)]
pub(super) struct Filter(Vec<Clause>);

#[derive(Debug)]
struct Clause {
    field: usize,
    kind: Kind,
    condition: Condition,
}

impl Filter {
    pub(super) fn parse(of: EntityType, text: &str) -> Result<Self, Fault> {
        let text = text.trim();
        let inside = text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
            .ok_or_else(|| Fault::filter(format!("'{text}' is not in braces")))?;
        let clauses = bracketed(inside)?;
        clauses
            .into_iter()
            .map(|(name, condition)| Clause::parse(of, name, condition))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn matches(&self, values: &Values) -> bool {
        self.0.iter().all(|clause| {
            let values = held(values, clause.field);
            clause.condition.matches(clause.kind, values)
        })
    }
}

impl Clause {
    fn parse(of: EntityType, name: &str, condition: &str) -> Result<Self, Fault> {
        let (field, found) = of.field(name).map_err(|fault| Fault::filter(fault.title))?;
        let condition = Condition::parse(found, condition)?;
        Ok(Self {
            field,
            kind: found.kind,
            condition,
        })
    }
}

/// Takes `name[inside];name[inside]` apart. A bracket in quotes closes nothing.
pub(super) fn bracketed(text: &str) -> Result<Vec<(&str, &str)>, Fault> {
    let mut all = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest
            .split_once('[')
            .ok_or_else(|| Fault::filter(format!("'{rest}' has no condition")))?;
        let end = closing_bracket(after)
            .ok_or_else(|| Fault::filter(format!("'{rest}' does not close its bracket")))?;
        all.push((name.trim(), &after[..end]));
        let after = after[end + 1..].trim_start();
        rest = match after.strip_prefix(';') {
            Some(after) => after.trim_start(),
            None if after.is_empty() => after,
            None => return Err(Fault::filter(format!("';' is missing before '{after}'"))),
        };
    }
    Ok(all)
}

fn closing_bracket(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, character) in text.char_indices() {
        match quote {
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if character == ']' => return Some(at),
            // An apostrophe within a word, as in O'Brien, opens nothing.
            None if tokens::opens_quote(&text[..at], character) => quote = Some(character),
            None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::entity::Entity;
    use super::*;

    fn defect(fields: &[(&str, &str)]) -> Entity {
        Entity::of(EntityType::Defect, 7, fields)
    }

    fn matches(query: &str, fields: &[(&str, &str)]) -> bool {
        let filter = Filter::parse(EntityType::Defect, query);
        filter
            .expect("it can be read")
            .matches(&defect(fields).values)
    }

    #[test]
    fn filter_fields_are_combined_by_and() {
        let fields = [("status", "Open"), ("owner", "ann")];
        assert!(matches("{status[Open]; owner[ann]}", &fields));
        assert!(!matches("{status[Open];owner[bob]}", &fields));
        assert!(matches("{}", &fields));
    }

    #[test]
    fn filter_values_support_or_and_not() {
        let open = [("status", "Open")];
        assert!(matches("{status[New Or Open]}", &open));
        assert!(matches("{status[NOT (New or Fixed)]}", &open));
        assert!(!matches("{status[not Open]}", &open));
        assert!(matches("{id[> 1 AND NOT (< 3 OR > 8)]}", &open));
        assert!(matches("{id[GE 7 And NOT = 5]}", &open));
        assert!(!matches("{id[GT 1 AND LT 7]}", &open));
    }

    #[test]
    fn filter_compares_numbers_as_numbers() {
        assert!(matches(
            "{estimated-fix-time[>9]}",
            &[("estimated-fix-time", "10")]
        ));
        assert!(!matches("{estimated-fix-time[>9]}", &[]));
    }

    #[test]
    fn filter_supports_stars_and_quotes() {
        let named = [("name", "Not Completed; [really] O'Brien")];
        assert!(matches("{name['Not Com*']}", &named));
        assert!(matches("{name[*really*]}", &named));
        assert!(matches("{name[\"*[really]*\"];id[7]}", &named));
        assert!(!matches("{name[Not*]}", &[("name", "X Not")]));
        // Without quotes the first word is an operator, and silently so.
        assert!(!matches("{name[Not Completed]}", &[("name", "Completed")]));
        assert!(matches("{name[O'Brien]}", &[("name", "O'Brien")]));
    }

    #[test]
    fn filter_compares_times_by_day_or_second() {
        let at = [("last-modified", "2026-01-02 03:04:05")];
        assert!(matches("{last-modified[>=\"2026-01-02 03:04:05\"]}", &at));
        assert!(matches("{last-modified[> 2026-01-02]}", &at));
        assert!(!matches("{last-modified[< '2026-01-02 03:04:05']}", &at));
    }

    #[test]
    fn empty_quotes_find_empty_text() {
        assert!(matches("{owner[\"\"]}", &[]));
        assert!(!matches("{owner[NOT '']}", &[]));
        assert!(matches("{owner[NOT '']}", &[("owner", "ann")]));
    }

    #[test]
    fn invalid_filter_is_rejected() {
        for broken in [
            "status[Open]",
            "{status}",
            "{status[Open}",
            "{status[]}",
            "{status[Open New]}",
            "{status[(Open]}",
            "{status[Open]owner[ann]}",
            "{nothing[1]}",
            "{id[one]}",
            "{last-modified[>=2026-01-02T00:00:00Z]}",
            "{name['open]}",
            "{name[>]}",
        ] {
            let fault = Filter::parse(EntityType::Defect, broken).expect_err(broken);
            assert_eq!(fault.id, "invalid-filter-expression", "{broken}");
        }
    }
}
