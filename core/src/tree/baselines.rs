//! What both ends agreed on, and when: a baseline is (key, id, tick).

/// Keys kept: pairs, directions and options that this root takes part in.
const KEYS_MAX: usize = 64;
/// Ids kept for a key: an end that died between its peer's commit and its own still has the one before.
const IDS_MAX: usize = 2;

/// The baselines of one tree; bounded, the oldest go first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Baselines {
    /// Committed last is last.
    keys: Vec<Key>,
}

#[derive(Debug, PartialEq, Eq)]
struct Key {
    key: [u8; 16],
    /// Newest first.
    ids: Vec<([u8; 16], u64)>,
}

impl Baselines {
    /// Remembers one; one with the same id is replaced.
    pub fn commit(&mut self, key: [u8; 16], id: [u8; 16], tick: u64) {
        let mut ids = match self.keys.iter().position(|k| k.key == key) {
            Some(at) => self.keys.remove(at).ids,
            None => Vec::new(),
        };
        ids.retain(|known| known.0 != id);
        ids.insert(0, (id, tick));
        ids.truncate(IDS_MAX);
        if self.keys.len() == KEYS_MAX {
            self.keys.remove(0);
        }
        self.keys.push(Key { key, ids });
    }

    /// (id, tick), newest first.
    pub fn of(&self, key: &[u8; 16]) -> Vec<([u8; 16], u64)> {
        let found = self.keys.iter().find(|k| k.key == *key);
        found.map(|k| k.ids.clone()).unwrap_or_default()
    }

    /// The oldest tick that anyone may still ask about.
    pub fn oldest(&self) -> Option<u64> {
        self.keys.iter().flat_map(|k| k.ids.iter().map(|id| id.1)).min()
    }

    /// (key, id, tick), in an order in which committing them again gives the same.
    pub fn iter(&self) -> impl Iterator<Item = ([u8; 16], [u8; 16], u64)> + '_ {
        let each = |k: &Key| k.ids.iter().rev().map(|&(id, tick)| (id, tick)).collect::<Vec<_>>();
        self.keys
            .iter()
            .flat_map(move |k| each(k).into_iter().map(|(id, tick)| (k.key, id, tick)))
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.keys.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_newest_of_a_key_are_kept_and_the_oldest_keys_go() {
        let mut all = Baselines::default();
        assert_eq!(all.oldest(), None);
        for n in 1..=3 {
            all.commit([1; 16], [n; 16], u64::from(n));
        }
        all.commit([1; 16], [3; 16], 9);
        assert_eq!(all.of(&[1; 16]), [([3; 16], 9), ([2; 16], 2)]);
        assert_eq!(all.oldest(), Some(2));
        let mut again = Baselines::default();
        all.iter().for_each(|(key, id, tick)| again.commit(key, id, tick));
        assert_eq!(again, all);
        for n in 0..KEYS_MAX as u8 {
            all.commit([100 + n; 16], [0; 16], 20);
        }
        assert!(all.of(&[1; 16]).is_empty());
        assert_eq!(all.of(&[100; 16]), [([0; 16], 20)]);
        assert_eq!(all.keys.len(), KEYS_MAX);
    }
}
