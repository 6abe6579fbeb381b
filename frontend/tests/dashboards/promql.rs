//! As much of PromQL as it takes to find metric names and labels in an expression.

use std::collections::BTreeSet;

/// What an expression mentions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mentions {
    /// Every name that stands where a metric does.
    pub(crate) metrics: BTreeSet<String>,
    /// A metric and a label that its selector names.
    pub(crate) selected: BTreeSet<(String, String)>,
    /// Labels of `by`, `without`, `on`, `ignoring`, `group_left`, `group_right`.
    pub(crate) grouped: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Text,
    Sign(char),
}

const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const KEYWORDS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "inf"];

pub(crate) fn mentions(expression: &str) -> Mentions {
    let tokens = tokens(expression);
    let mut found = Mentions::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let Token::Name(name) = token else { continue };
        let next = tokens.get(at);
        if GROUPING.contains(&name.as_str()) {
            let labels = enclosed(&tokens[at..], '(', ')');
            at += labels.len();
            found.grouped.extend(names(labels));
        } else if KEYWORDS.contains(&name.as_str()) || next.is_some_and(follows_a_function) {
            // An operator, a function or an aggregation.
        } else {
            found.metrics.insert(name.clone());
            let selector = enclosed(&tokens[at..], '{', '}');
            at += selector.len();
            found.selected.extend(names(selector).map(|label| (name.clone(), label)));
        }
    }
    found
}

fn follows_a_function(token: &Token) -> bool {
    match token {
        Token::Name(name) => name == "by" || name == "without",
        Token::Sign(sign) => *sign == '(',
        Token::Text => false,
    }
}

/// The tokens from an opening sign that comes first to its closing one, both included; none where another
/// comes first.
fn enclosed(tokens: &[Token], open: char, close: char) -> &[Token] {
    if tokens.first() != Some(&Token::Sign(open)) {
        return &[];
    }
    let end = tokens.iter().position(|token| *token == Token::Sign(close));
    &tokens[..=end.expect("a sign that opens is closed")]
}

fn names(tokens: &[Token]) -> impl Iterator<Item = String> {
    tokens.iter().filter_map(|token| match token {
        Token::Name(name) => Some(name.clone()),
        Token::Text | Token::Sign(_) => None,
    })
}

fn tokens(expression: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(c) = rest.chars().next() {
        let len = if c == '"' {
            let end = rest[1..].find('"').expect("a string that begins ends");
            tokens.push(Token::Text);
            end + 2
        } else if c == '[' {
            // A range says nothing about metrics.
            rest.find(']').expect("a range that begins ends") + 1
        } else if c.is_ascii_digit() {
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len())
        } else if c.is_ascii_alphabetic() || c == '_' || c == ':' {
            let len =
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
            tokens.push(Token::Name(rest[..len].to_owned()));
            len
        } else {
            if !c.is_whitespace() {
                tokens.push(Token::Sign(c));
            }
            c.len_utf8()
        };
        rest = &rest[len..];
    }
    tokens
}

#[test]
fn an_expression_is_taken_apart() {
    let found = mentions(
        "histogram_quantile(0.99, sum by (le, job) (rate(a_bucket{x=\"by (y)\", z=~\"$z\"}[5m]))) > 1e3\n  and on(w) b:c unless d == bool 1",
    );
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(found.metrics, set(&["a_bucket", "b:c", "d"]));
    assert_eq!(found.grouped, set(&["job", "le", "w"]));
    let selected: Vec<_> = found.selected.iter().map(|(m, l)| (m.as_str(), l.as_str())).collect();
    assert_eq!(selected, [("a_bucket", "x"), ("a_bucket", "z")]);
}
