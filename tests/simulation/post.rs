//! The messages that users send: which of them arrived, in which order, and what used them.
//!
//! Every message has a text of its own, which is looked for in what the store takes in.

use std::collections::BTreeMap;

use keepstep::storage::{MessageId, RunId, Send, SendOutcome};

/// How the text of every message begins. It is in nothing else.
const MAGIC: &str = "~m5~";
const DIGITS: usize = 8;

/// One message.
#[derive(Debug)]
struct Letter {
    run: String,
    name: String,
    /// Its number in the inbox, once it is there.
    arrived: Option<MessageId>,
    is_consumed: bool,
    /// The step that was given it.
    used_by: Option<String>,
}

/// All messages so far.
#[derive(Debug, Default)]
pub(crate) struct Post {
    letters: Vec<Letter>,
    /// Those that were sent with an id, by run and id.
    by_key: BTreeMap<(String, String), usize>,
}

impl Post {
    /// The text of a message that is to be sent. One of the same id to the same run is the same message.
    pub(crate) fn write(&mut self, run: &str, name: &str, key: Option<&str>) -> String {
        let new = self.letters.len();
        let at = match key {
            None => new,
            Some(key) => *self
                .by_key
                .entry((run.to_owned(), key.to_owned()))
                .or_insert(new),
        };
        if at == new {
            self.letters.push(Letter {
                run: run.to_owned(),
                name: name.to_owned(),
                arrived: None,
                is_consumed: false,
                used_by: None,
            });
        }
        format!("{MAGIC}{at:0DIGITS$x}")
    }

    /// Whether a message is in its inbox, or was.
    pub(crate) fn has_arrived(&self, text: &str) -> bool {
        number_in(text.as_bytes()).is_some_and(|at| self.letters[at].arrived.is_some())
    }

    /// How many messages of a name have arrived at a run.
    pub(crate) fn n_arrived(&self, run: &str, name: &str) -> usize {
        let arrived = |of: &&Letter| of.run == run && of.name == name && of.arrived.is_some();
        self.letters.iter().filter(arrived).count()
    }

    /// The store took a message in, or did not.
    pub(crate) fn arrived(&mut self, message: &Send, outcome: SendOutcome) -> Result<(), String> {
        let (SendOutcome::Accepted(id), Some(at)) = (outcome, number_in(&message.body)) else {
            return Ok(());
        };
        let letter = &mut self.letters[at];
        match letter.arrived.replace(id) {
            None => Ok(()),
            Some(before) => Err(format!(
                "message {at} to {} arrived as {before:?} and again as {id:?}",
                message.to
            )),
        }
    }

    /// A write used messages up: what does not hold of that.
    pub(crate) fn consumed(&mut self, run: &RunId, ids: &[MessageId]) -> Vec<String> {
        let mut violations = Vec::new();
        for id in ids {
            let is_it = |of: &Letter| of.run == run.as_str() && of.arrived == Some(*id);
            let Some(at) = self.letters.iter().position(is_it) else {
                // It is of the engine itself.
                continue;
            };
            let earlier = self.letters.iter().position(|of| {
                of.run == run.as_str()
                    && of.name == self.letters[at].name
                    && !of.is_consumed
                    && of.arrived.is_some_and(|arrived| arrived < *id)
            });
            if let Some(earlier) = earlier {
                violations.push(format!(
                    "{run} uses message {at} before {earlier}, which arrived earlier"
                ));
            }
            if std::mem::replace(&mut self.letters[at].is_consumed, true) {
                violations.push(format!("{run} uses message {at} twice"));
            }
        }
        violations
    }

    /// A body is given a message.
    pub(crate) fn uses(&mut self, text: &str, step: &str) -> Result<(), String> {
        let Some(at) = number_in(text.as_bytes()) else {
            return Err(format!("{step} is given no message: {text}"));
        };
        let letter = &mut self.letters[at];
        if !letter.is_consumed {
            return Err(format!(
                "2: {step} is given message {at}, which is in the inbox"
            ));
        }
        match letter.used_by.get_or_insert_with(|| step.to_owned()) {
            by if by == step => Ok(()),
            by => Err(format!("message {at} is given to {step} after {by}")),
        }
    }

    /// A run is gone with its inbox: the ids of messages begin afresh.
    pub(crate) fn deleted(&mut self, run: &RunId) {
        for letter in self.letters.iter_mut().filter(|of| of.run == run.as_str()) {
            letter.arrived = None;
            letter.is_consumed = false;
            letter.used_by = None;
        }
    }
}

/// Which message this is, or is in these bytes.
fn number_in(bytes: &[u8]) -> Option<usize> {
    let magic = MAGIC.as_bytes();
    let at = bytes.windows(magic.len()).position(|part| part == magic)? + magic.len();
    let digits = std::str::from_utf8(bytes.get(at..at + DIGITS)?).ok()?;
    usize::from_str_radix(digits, 16).ok()
}
