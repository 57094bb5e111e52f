//! What is in a field's brackets, as a tree.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::vec::IntoIter;

use super::tokens::{Relation, Token, tokens};
use crate::alm::clock;
use crate::alm::fault::Fault;
use crate::alm::schema::{Field, Kind};

#[derive(Debug)]
pub(super) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Compare(Relation, String),
    /// Equal to a text with stars, taken apart at them.
    Like(Vec<String>),
}

impl Condition {
    pub(super) fn parse(field: &'static Field, text: &str) -> Result<Self, Fault> {
        let tokens = tokens(text)?.into_iter().peekable();
        let mut parser = Parser { tokens, field };
        let condition = parser.any()?;
        match parser.tokens.next() {
            None => Ok(condition),
            Some(_) => Err(Fault::filter(format!(
                "'{text}' needs quotes or an operator"
            ))),
        }
    }

    /// Whether one of the values meets it; a field without any is an empty text.
    pub(super) fn matches(&self, kind: Kind, values: &[String]) -> bool {
        match self {
            Self::All(all) => all.iter().all(|one| one.matches(kind, values)),
            Self::Any(any) => any.iter().any(|one| one.matches(kind, values)),
            Self::Not(one) => !one.matches(kind, values),
            Self::Compare(relation, literal) => any_value(values, |value| {
                compare(kind, value, literal).is_some_and(|ordering| relation.holds(ordering))
            }),
            Self::Like(pieces) => any_value(values, |value| is_like(value, pieces)),
        }
    }
}

fn any_value(values: &[String], meets: impl Fn(&str) -> bool) -> bool {
    match values {
        [] => meets(""),
        values => values.iter().any(|value| meets(value)),
    }
}

/// Nothing is neither less nor greater than a number.
fn compare(kind: Kind, value: &str, literal: &str) -> Option<Ordering> {
    if !kind.is_number() || literal.is_empty() {
        return Some(value.cmp(literal));
    }
    let (value, literal): (f64, f64) = (value.parse().ok()?, literal.parse().ok()?);
    value.partial_cmp(&literal)
}

fn is_like(value: &str, pieces: &[String]) -> bool {
    let [first, middle @ .., last] = pieces else {
        return false;
    };
    let Some(mut rest) = value
        .strip_prefix(first.as_str())
        .and_then(|rest| rest.strip_suffix(last.as_str()))
    else {
        return false;
    };
    middle
        .iter()
        .all(|piece| match rest.split_once(piece.as_str()) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
}

/// NOT binds closer than AND, and AND closer than OR.
struct Parser {
    tokens: Peekable<IntoIter<Token>>,
    field: &'static Field,
}

impl Parser {
    fn any(&mut self) -> Result<Condition, Fault> {
        let mut any = vec![self.all()?];
        while self.tokens.next_if_eq(&Token::Or).is_some() {
            any.push(self.all()?);
        }
        Ok(Condition::Any(any))
    }

    fn all(&mut self) -> Result<Condition, Fault> {
        let mut all = vec![self.one()?];
        while self.tokens.next_if_eq(&Token::And).is_some() {
            all.push(self.one()?);
        }
        Ok(Condition::All(all))
    }

    fn one(&mut self) -> Result<Condition, Fault> {
        match self.tokens.next() {
            Some(Token::Not) => Ok(Condition::Not(Box::new(self.one()?))),
            Some(Token::Open) => {
                let inside = self.any()?;
                let close = self.tokens.next_if_eq(&Token::Close);
                close.ok_or_else(|| Fault::filter("a parenthesis is not closed"))?;
                Ok(inside)
            }
            Some(Token::Relation(relation)) => match self.tokens.next() {
                Some(Token::Literal(literal)) => self.compare(relation, literal),
                _ => Err(Fault::filter("an operator is followed by no value")),
            },
            Some(Token::Literal(literal)) => self.compare(Relation::Equal, literal),
            _ => Err(Fault::filter("a value is missing")),
        }
    }

    fn compare(&self, relation: Relation, literal: String) -> Result<Condition, Fault> {
        if relation == Relation::Equal && literal.contains('*') {
            let pieces = literal.split('*').map(str::to_owned).collect();
            return Ok(Condition::Like(pieces));
        }
        let literal = self.typed(literal)?;
        Ok(Condition::Compare(relation, literal))
    }

    fn typed(&self, literal: String) -> Result<String, Fault> {
        let kind = self.field.kind;
        let fits = literal.is_empty()
            || match kind {
                Kind::Number | Kind::Reference => literal.parse::<f64>().is_ok(),
                Kind::Date => clock::is_date(&literal) || clock::is_date_time(&literal),
                // A day alone is its first second.
                Kind::DateTime if clock::is_date(&literal) => return Ok(literal + " 00:00:00"),
                Kind::DateTime => clock::is_date_time(&literal),
                Kind::String | Kind::Memo | Kind::LookupList(_) | Kind::UsersList => true,
            };
        let name = self.field.name;
        fits.then_some(())
            .ok_or_else(|| Fault::filter(format!("'{literal}' is no value of '{name}'")))?;
        Ok(literal)
    }
}
