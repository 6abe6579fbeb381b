//! What must not be, and was.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Class {
    /// What had been acknowledged is not there in the end.
    Lost,
    /// No order of its operations explains what clients saw of a key, or an answer that its command never gives.
    Wrong,
    /// The search for such an order was given up.
    Undecided,
    /// The copies of a key are not equal.
    Unequal,
    /// Commands failed under a fault that clients should not notice.
    Failed,
    /// The cluster was not whole in time after a fault.
    Unhealed,
    /// The fault could not be done or undone: nothing is shown.
    Broken,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Violation {
    pub(crate) class: Class,
    /// The key that it is about, if it is about one.
    pub(crate) key: Option<String>,
    pub(crate) text: String,
    /// The whole story, for the file of evidence.
    #[serde(skip)]
    pub(crate) story: String,
}

impl Violation {
    pub(crate) fn new(class: Class, text: impl Into<String>) -> Self {
        Self { class, key: None, text: text.into(), story: String::new() }
    }

    pub(crate) fn of_key(class: Class, key: &str, text: impl Into<String>, story: String) -> Self {
        Self { class, key: Some(key.to_owned()), text: text.into(), story }
    }
}
