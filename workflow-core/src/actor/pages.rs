//! Which page of an agenda has what, and which pages are to be written.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keepstep_storage::ValueKey;

use crate::error::Result;

/// How many things a page has at most. Twice as many are in the agenda itself before there are pages.
pub(super) const PAGE: u64 = 128;

/// The pages of one kind of thing.
#[derive(Debug)]
pub(super) struct PagesOf<K> {
    /// What each page has, whether there are so many that the pages are stored or not.
    pages: BTreeMap<u64, BTreeSet<K>>,
    /// Pages that the store has, and those that are not as it has them.
    stored: BTreeSet<u64>,
    changed: BTreeSet<u64>,
}

impl<K: Ord> PagesOf<K> {
    /// No page has anything yet; the store has these.
    pub(super) fn new(stored: &[u64]) -> Self {
        Self {
            pages: BTreeMap::new(),
            stored: stored.iter().copied().collect(),
            changed: BTreeSet::new(),
        }
    }

    /// Notes what the store has in a page.
    pub(super) fn has(&mut self, page: u64, key: K) {
        self.pages.entry(page).or_default().insert(key);
    }

    pub(super) fn put(&mut self, page: u64, key: K) {
        self.has(page, key);
        self.changed.insert(page);
    }

    pub(super) fn remove(&mut self, page: u64, key: &K) {
        if let Some(keys) = self.pages.get_mut(&page) {
            keys.remove(key);
            if keys.is_empty() {
                self.pages.remove(&page);
            }
        }
        self.changed.insert(page);
    }

    fn len(&self, page: u64) -> u64 {
        self.pages.get(&page).map_or(0, |keys| keys.len() as u64)
    }

    pub(super) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The pages that the store has.
    pub(super) fn stored(&self) -> Vec<u64> {
        self.stored.iter().copied().collect()
    }

    /// What is to be written of `n` things; from then on it counts as stored. Whether the agenda itself is to be written, too: it has
    /// the things, or names the pages.
    pub(super) fn write(
        &mut self,
        n: u64,
        values: &mut Vec<(ValueKey, Option<Bytes>)>,
        key: impl Fn(u64) -> ValueKey,
        encode: impl Fn(&BTreeSet<K>) -> Result<Bytes>,
    ) -> Result<bool> {
        let changed = std::mem::take(&mut self.changed);
        let had_pages = !self.stored.is_empty();
        if n <= if had_pages { PAGE } else { 2 * PAGE } {
            let pages = std::mem::take(&mut self.stored).into_iter();
            values.extend(pages.map(|page| (key(page), None)));
            return Ok(had_pages || !changed.is_empty());
        }
        let is_first = |page: &u64| !had_pages && !changed.contains(page);
        let others = self.pages.keys().copied().filter(is_first);
        let to_write: Vec<u64> = changed.iter().copied().chain(others).collect();
        let mut are_others = false;
        for page in to_write {
            match self.pages.get(&page) {
                Some(keys) => {
                    values.push((key(page), Some(encode(keys)?)));
                    are_others |= self.stored.insert(page);
                }
                None if self.stored.remove(&page) => {
                    values.push((key(page), None));
                    are_others = true;
                }
                None => {}
            }
        }
        Ok(are_others)
    }
}

/// Pages of things with a name, each of which stays in the page that it was put into.
#[derive(Debug)]
pub(super) struct NamedPages {
    pub(super) pages: PagesOf<String>,
    page_of: BTreeMap<String, u64>,
    with_room: BTreeSet<u64>,
}

impl NamedPages {
    pub(super) fn new(stored: &[u64]) -> Self {
        Self {
            pages: PagesOf::new(stored),
            page_of: BTreeMap::new(),
            with_room: BTreeSet::new(),
        }
    }

    /// Notes what the store has in a page.
    pub(super) fn has(&mut self, page: u64, name: &str) {
        self.pages.has(page, name.to_owned());
        self.page_of.insert(name.to_owned(), page);
        self.look(page);
    }

    /// A thing of this name was put in, or has changed.
    pub(super) fn put(&mut self, name: &str) {
        let page = self.page_of.get(name).copied();
        let page = page.unwrap_or_else(|| self.page_with_room());
        self.pages.put(page, name.to_owned());
        self.page_of.insert(name.to_owned(), page);
        self.look(page);
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(page) = self.page_of.remove(name) {
            self.pages.remove(page, &name.to_owned());
            self.look(page);
        }
    }

    /// The first page that has room, or a new one.
    pub(super) fn page_with_room(&self) -> u64 {
        let with_room = self.with_room.first().copied();
        let last = || self.pages.pages.last_key_value().map(|(page, _)| *page);
        with_room.unwrap_or_else(|| last().map_or(0, |last| last + 1))
    }

    fn look(&mut self, page: u64) {
        match self.pages.len(page) {
            0 | PAGE.. => self.with_room.remove(&page),
            _ => self.with_room.insert(page),
        };
    }
}
