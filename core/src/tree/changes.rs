//! What changed since a tick, as looks.

use super::dir::WAS_DIR;
use super::expect::split;
use super::index::Index;
use super::looks;

impl Index {
    /// Looks at all that changed since a tick, and at what is distrusted; None: more than `limit` bytes of them.
    ///
    /// A directory that is new, was replaced, or lost more names than are kept is one deep look with nothing below it;
    /// so is a name that was a directory. Looks at names of one directory are together, parents before children;
    /// distrusted paths are last.
    pub fn changes(&self, since: u64, limit: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut open = vec![Self::ROOT];
        let root = self.dir(Self::ROOT)?;
        if root.deep > since {
            open.clear();
            self.push_change(&mut out, b"", true);
        } else if self.root.tick > since {
            self.push_change(&mut out, b"", false);
        }
        while let Some(id) = open.pop() {
            let Some(dir) = self.dir(id).filter(|d| d.newest > since) else {
                continue;
            };
            let mut path = self.path(id)?;
            if !path.is_empty() {
                path.push(b'/');
            }
            let base = path.len();
            for record in &dir.records {
                let child = record.child().and_then(|id| Some((id, self.dir(id)?)));
                let deep = child.is_some_and(|(_, d)| d.deep > since);
                if record.tick > since || deep {
                    path.truncate(base);
                    path.extend_from_slice(dir.name_of(record));
                    self.push_change(&mut out, &path, deep || record.has(WAS_DIR));
                }
                if let Some((id, _)) = child.filter(|(_, d)| !deep && d.newest > since) {
                    open.push(id);
                }
                if out.len() > limit {
                    return None;
                }
            }
        }
        for (path, &deep) in &self.distrusted {
            if !self.is_covered(path, deep, since) {
                looks::push(&mut out, path, deep);
            }
            if out.len() > limit {
                return None;
            }
        }
        Some(out)
    }

    /// Whether an entry, its absence, or a directory's own entry is of after a tick. Asked before the path is expected.
    pub fn changed_since(&self, path: &[u8], since: u64) -> bool {
        let mut at = self.dir(Self::ROOT);
        let mut tick = self.root.tick;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            let Some(dir) = at else {
                break; // No directory any more, or not yet: the tick of what is there in its place.
            };
            let Some(record) = dir.get(name) else {
                // A tombstone may have been dropped.
                return dir.deep > since;
            };
            tick = record.tick;
            at = record.child().and_then(|id| self.dir(id));
        }
        tick > since
    }

    /// A look that the tree gives, unless a distrusted path gives it too.
    fn push_change(&self, out: &mut Vec<u8>, path: &[u8], deep: bool) {
        let plain = !deep && self.distrusted.contains_key(path);
        let below = || above(path).chain([path]).any(|p| self.distrusted.get(p) == Some(&true));
        if self.distrusted.is_empty() || !(plain || below()) {
            looks::push(out, path, deep);
        }
    }

    /// Whether a distrusted path is below a deep look, or is one.
    fn is_covered(&self, path: &[u8], deep: bool, since: u64) -> bool {
        let news = |p: &[u8]| self.is_deep(p, since);
        above(path).any(|p| news(p) || self.distrusted.get(p) == Some(&true)) || (!deep && news(path))
    }

    /// Whether the tree gives a deep look at just this path.
    fn is_deep(&self, path: &[u8], since: u64) -> bool {
        let (dir, name) = split(path);
        let named = || self.dir(self.find(dir)?)?.get(name);
        match self.find(path).and_then(|id| self.dir(id)) {
            Some(dir) => dir.deep > since,
            None => named().is_some_and(|r| r.tick > since && r.has(WAS_DIR)),
        }
    }
}

/// Every directory above a path, the root first; none above the root.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let root = (!path.is_empty()).then_some(&b""[..]);
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
    root.into_iter().chain(slashes.map(move |(at, _)| &path[..at]))
}
