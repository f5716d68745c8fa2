//! A queue of runs that any run may leave from its middle.

use std::collections::{BTreeMap, HashMap};

use keepstep_storage::RunId;

/// Runs in order of arrival, each once. Whatever it does takes a time that hardly grows with its length.
#[derive(Debug)]
pub(super) struct Queue<T = ()> {
    by_number: BTreeMap<u64, (RunId, T)>,
    numbers: HashMap<RunId, u64>,
    next: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            by_number: BTreeMap::new(),
            numbers: HashMap::new(),
            next: 0,
        }
    }
}

impl<T> Queue<T> {
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// Puts a run at the end. One that is in the queue keeps its place, with what is given for it now.
    pub(super) fn push(&mut self, id: RunId, with: T) {
        let number = *self.numbers.entry(id.clone()).or_insert(self.next);
        self.next = self.next.max(number + 1);
        self.by_number.insert(number, (id, with));
    }

    /// Takes the run that has waited longest.
    pub(super) fn pop(&mut self) -> Option<(RunId, T)> {
        let (_, (id, with)) = self.by_number.pop_first()?;
        self.numbers.remove(&id);
        Some((id, with))
    }

    /// Takes a run out, wherever it is.
    pub(super) fn remove(&mut self, id: &RunId) {
        if let Some(number) = self.numbers.remove(id) {
            self.by_number.remove(&number);
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_number.clear();
        self.numbers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> RunId {
        RunId::new(format!("run/{n}")).unwrap()
    }

    #[test]
    fn runs_come_out_in_the_order_in_which_they_came() {
        let mut queue = Queue::default();
        for n in 0..5 {
            queue.push(id(n), n);
        }
        queue.remove(&id(0));
        queue.remove(&id(3));
        queue.remove(&id(9));
        queue.push(id(3), 30);
        queue.push(id(2), 20);
        assert_eq!(queue.len(), 4);
        let order: Vec<u32> = std::iter::from_fn(|| queue.pop()).map(|(_, n)| n).collect();
        assert_eq!(order, [1, 20, 4, 30]);
        assert!(queue.is_empty() && queue.numbers.is_empty());
    }

    #[test]
    fn what_was_cleared_is_gone() {
        let mut queue = Queue::default();
        queue.push(id(1), ());
        queue.clear();
        assert!(queue.pop().is_none());
        queue.push(id(1), ());
        assert_eq!(queue.pop(), Some((id(1), ())));
    }
}
