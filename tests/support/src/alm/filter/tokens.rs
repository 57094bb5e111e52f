//! Tokens of a condition.

use std::cmp::Ordering;

use crate::alm::fault::Fault;

/// How a value stands to a literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Open,
    Close,
    And,
    Or,
    Not,
    Relation(Relation),
    Literal(String),
}

impl Relation {
    pub(super) fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Equal => ordering.is_eq(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Greater => ordering.is_gt(),
        }
    }
}

/// The signs, longer ones first.
const SIGNS: [(&str, Token); 7] = [
    (">=", Token::Relation(Relation::GreaterOrEqual)),
    ("<=", Token::Relation(Relation::LessOrEqual)),
    (">", Token::Relation(Relation::Greater)),
    ("<", Token::Relation(Relation::Less)),
    ("=", Token::Relation(Relation::Equal)),
    ("(", Token::Open),
    (")", Token::Close),
];

/// Whether a quotation begins with this character, after what came before it.
pub(super) fn opens_quote(before: &str, character: char) -> bool {
    let is_word = |last: char| !last.is_whitespace() && !"()<>=[".contains(last);
    matches!(character, '"' | '\'') && !before.chars().next_back().is_some_and(is_word)
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let sign = SIGNS.iter().find(|(sign, _)| rest.starts_with(sign));
        if let Some((sign, token)) = sign {
            all.push(token.clone());
            rest = &rest[sign.len()..];
        } else if matches!(first, '"' | '\'') {
            let (inside, after) = rest[1..]
                .split_once(first)
                .ok_or_else(|| Fault::filter(format!("'{text}' does not close its quotes")))?;
            all.push(Token::Literal(inside.to_owned()));
            rest = after;
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || "()<>=".contains(c));
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            all.push(of_word(word));
            rest = after;
        }
        rest = rest.trim_start();
    }
    Ok(all)
}

fn of_word(word: &str) -> Token {
    match word.to_ascii_uppercase().as_str() {
        "AND" => Token::And,
        "OR" => Token::Or,
        "NOT" => Token::Not,
        "GT" => Token::Relation(Relation::Greater),
        "LT" => Token::Relation(Relation::Less),
        "EQ" => Token::Relation(Relation::Equal),
        "GE" => Token::Relation(Relation::GreaterOrEqual),
        "LE" => Token::Relation(Relation::LessOrEqual),
        _ => Token::Literal(word.to_owned()),
    }
}
