//! Steps say here what they do, and ask here how they are to behave; the test reads the one and sets the other.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

/// A resource. Cloning gives the same world.
#[derive(Debug, Clone, Default)]
pub(crate) struct World(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    log: watch::Sender<Vec<String>>,
    rules: watch::Sender<HashMap<String, Do>>,
}

/// How a body behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Do {
    #[default]
    Succeed,
    Fail,
    /// So many times; then it succeeds.
    FailTimes(u32),
    Panic,
    /// Until the test says otherwise.
    Hold,
}

/// Writes down that a body was dropped in the middle.
struct WhileHeld<'a>(&'a World, &'a str);

impl Drop for WhileHeld<'_> {
    fn drop(&mut self) {
        self.0.note(format!("{} dropped", self.1));
    }
}

impl World {
    /// Sets how the bodies of this name behave, from now on; those held go on with it.
    pub(crate) fn tell(&self, who: &str, what: Do) {
        self.0.rules.send_modify(|rules| {
            rules.insert(who.to_owned(), what);
        });
    }

    pub(crate) fn note(&self, what: impl Into<String>) {
        self.0.log.send_modify(|log| log.push(what.into()));
    }

    /// What a body does: notes its name, and behaves as told.
    pub(crate) async fn act(&self, who: &str) -> Result<(), String> {
        self.note(who);
        let mut rules = self.0.rules.subscribe();
        loop {
            match self.rule(who) {
                Do::Succeed => return Ok(()),
                Do::Fail => return Err(format!("{who} failed")),
                Do::FailTimes(0) => self.tell(who, Do::Succeed),
                Do::FailTimes(n) => {
                    self.tell(who, Do::FailTimes(n - 1));
                    return Err(format!("{who} failed"));
                }
                Do::Panic => panic!("{who} panicked"),
                Do::Hold => {
                    let held = WhileHeld(self, who);
                    // The world has the sender, so this ends only with what it waits for.
                    drop(
                        rules
                            .wait_for(|rules| rules.get(who) != Some(&Do::Hold))
                            .await,
                    );
                    std::mem::forget(held);
                }
            }
        }
    }

    fn rule(&self, who: &str) -> Do {
        self.0.rules.borrow().get(who).copied().unwrap_or_default()
    }

    /// Waits until this was noted.
    pub(crate) async fn until(&self, what: &str) {
        self.until_times(what, 1).await;
    }

    /// Waits until this was noted so often.
    pub(crate) async fn until_times(&self, what: &str, times: usize) {
        let mut log = self.0.log.subscribe();
        let seen = |log: &Vec<String>| log.iter().filter(|noted| *noted == what).count() >= times;
        drop(log.wait_for(seen).await);
    }

    /// What was noted since this was last asked, in order.
    pub(crate) fn log(&self) -> Vec<String> {
        self.0.log.send_replace(Vec::new())
    }

    /// As `log`, for what happens at once: in the order of the alphabet.
    pub(crate) fn sorted_log(&self) -> Vec<String> {
        let mut log = self.log();
        log.sort();
        log
    }
}
