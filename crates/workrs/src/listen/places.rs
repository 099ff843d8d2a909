//! A bounded number of something for each of many, such as connections for each address.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// So many places for each. Clones share them.
#[derive(Debug, Clone)]
pub struct Places<K> {
    most: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash + Clone> Places<K> {
    /// `most` places for each.
    pub fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// One place more for `key`, until it is dropped; none if all of its are taken.
    pub fn take(&self, key: K) -> Option<Place<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(&key).copied().unwrap_or_default();
        if count >= self.most {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        Some(Place { key, taken: Arc::clone(&self.taken) })
    }

    /// How many places there are for each.
    pub fn most(&self) -> usize {
        self.most
    }
}

/// A place that is taken while this lives.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    key: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            // Whoever has none is forgotten, so that this does not grow with all who ever came.
            _ => drop(taken.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_places_and_gets_them_back() {
        let places = Places::new(2);
        let first = places.take("a").unwrap();
        let _second = places.take("a").unwrap();
        assert!(places.take("a").is_none());
        let other = places.take("b").unwrap();
        drop((first, other));
        assert!(places.take("a").is_some());
        assert_eq!(places.taken.lock().unwrap().len(), 1, "whoever has none is forgotten");
    }
}
