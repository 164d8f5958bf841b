//! A session's own writes are explained by expectation, not by hooks at each write.
//!
//! What a list says that an entry is to become is taken over at once, unverified. A look that finds just that adopts
//! it without a tick; anything else (a failed write, a foreign change) is a change that nobody agreed to. The
//! expectation itself has a tick where it differs from what was: one tree serves several peers, and to all but the
//! one of this session it is news. That one's baseline is committed behind it.

use super::dir::{DirId, Expected, Record, UNVERIFIED, WAS_DIR};
use super::dirty::NAMES_MAX;
use super::index::Index;
use crate::list::{DIRECTORY, GONE, OTHER, UNREADABLE};

/// Distrusted paths that are kept apart; beyond, their parents are distrusted with all below.
const DISTRUSTED_MAX: usize = 10_000;

/// Below so many expectations, reading their directory is not worth it.
pub const AWAITED_MIN: usize = 32;

/// What is said of the names that a list does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing: what else the directory holds was agreed to be there.
    Unsaid,
    /// Those that are to go are told one by one; what else is found is news, in a directory that was never read too.
    Told,
    /// They are to be gone.
    Gone,
}

impl Index {
    /// What entries of one directory are to become; directories on the way are made. An entry with the kind GONE is to be gone; one without a name, in the root, is the
    /// root itself; OTHER and UNREADABLE are only mentioned. Returns directories that vanished.
    ///
    /// An entry that is known to be like that already, to the file system's time granule (ns), stays verified.
    pub fn expect(
        &mut self,
        dir: &[u8],
        entries: &mut dyn Iterator<Item = (&[u8], Expected)>,
        rest: Rest,
        granule: u32,
    ) -> Vec<DirId> {
        let mut gone = Vec::new();
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by(|a, b| a.0.cmp(b.0));
        entries.dedup_by(|a, b| a.0 == b.0);
        if entries.first().is_some_and(|e| e.0.is_empty()) {
            self.expect_root(&entries[0].1, granule);
            entries.remove(0);
        }
        let Some(id) = self.make_path(dir, &mut gone) else {
            return gone;
        };
        let Some(known) = self.dir_mut(id) else {
            return gone;
        };
        let unread = !known.read;
        let placed = entries.iter().filter(|e| match e.1.kind {
            OTHER | UNREADABLE => false,
            GONE => unread, // Of a directory that was read it is known what is not there.
            _ => true,
        });
        if !known.insert_all(placed.map(|e| e.0)) {
            self.overflowed(id);
        }
        let mut listed = entries.iter().peekable();
        for at in 0.. {
            let Some(known) = self.dir(id).filter(|d| at < d.records.len()) else {
                break;
            };
            let name = known.name_of(&known.records[at]);
            while listed.next_if(|e| e.0 < name).is_some() {}
            match listed.next_if(|e| e.0 == name) {
                Some((_, to)) => self.expect_at(id, at, to, granule, &mut gone),
                None if rest == Rest::Gone => self.expect_at(id, at, &GONE_NOW, granule, &mut gone),
                None => {}
            }
        }
        if rest != Rest::Unsaid {
            self.close_dir(id, &entries);
        }
        self.tidy(id);
        gone
    }

    /// What is found in the directory beyond the known is news from now on, and so it is in directories among `entries`.
    fn close_dir(&mut self, id: DirId, entries: &[(&[u8], Expected)]) {
        for (name, _) in entries.iter().filter(|e| e.1.kind == DIRECTORY) {
            let child = self.dir(id).and_then(|d| d.get(name)?.child());
            if let Some(child) = child.and_then(|child| self.dir_mut(child)) {
                child.whole = true;
            }
        }
        if let Some(known) = self.dir_mut(id) {
            known.whole = true;
        }
    }

    /// A path is to be gone. Returns directories that vanished.
    pub fn expect_gone(&mut self, path: &[u8]) -> Vec<DirId> {
        let (dir, name) = split(path);
        let mut gone = Vec::new();
        self.trust(path, true);
        let known = self.find(dir).filter(|_| !name.is_empty());
        if let Some((id, at)) = known.and_then(|id| Some((id, self.place(id, name, !self.is_read(id))?))) {
            self.expect_at(id, at, &GONE_NOW, 1, &mut gone);
        }
        gone
    }

    /// This path is among the changes, whatever its tick, until it is expected anew, trusted, or found to be gone.
    pub fn distrust(&mut self, path: &[u8], deep: bool) {
        let (mut path, mut deep) = (path.to_vec(), deep);
        while self.distrusted.len() >= DISTRUSTED_MAX && !self.distrusted.contains_key(&path) {
            path.truncate(split(&path).0.len());
            deep = true;
            self.trust(&path, true);
        }
        *self.distrusted.entry(path).or_insert(false) |= deep;
    }

    /// Whether this very path is.
    pub fn is_distrusted(&self, path: &[u8]) -> bool {
        self.distrusted.contains_key(path)
    }

    /// Takes a distrust back: of the path, or of all below too.
    pub fn trust(&mut self, path: &[u8], below: bool) {
        if self.distrusted.is_empty() {
            return;
        }
        self.distrusted.remove(path);
        if below && path.is_empty() {
            self.distrusted.clear();
        } else if below {
            let span = [path, b"/"].concat()..[path, b"0"].concat(); // '0' follows '/'.
            while let Some(below) = self.distrusted.range(span.clone()).next().map(|e| e.0.clone()) {
                self.distrusted.remove(&below);
            }
        }
    }

    /// Directories with expectations to verify, each told once; a directory that was never read is to be read, of
    /// others `unverified` says which names are to be looked at.
    pub fn take_unverified(&mut self) -> Vec<DirId> {
        std::mem::take(&mut self.unverified).into_iter().collect()
    }

    /// Names of a directory whose expectation no look has confirmed yet.
    pub fn unverified(&self, dir: DirId) -> Vec<Box<[u8]>> {
        let Some(known) = self.dir(dir) else {
            return Vec::new();
        };
        let open = known.records.iter().filter(|r| r.has(UNVERIFIED));
        open.map(|r| Box::from(known.name_of(r))).collect()
    }

    /// Whether so many expectations of a directory are open that reading it costs less than looking at each.
    pub fn awaits_most(&self, dir: DirId) -> bool {
        let all = self.dir(dir).map_or(&[][..], |d| &d.records);
        let open = all.iter().filter(|r| r.has(UNVERIFIED)).count();
        open > NAMES_MAX || open >= AWAITED_MIN && open * 2 >= all.len()
    }

    fn expect_root(&mut self, to: &Expected, granule: u32) {
        self.distrusted.remove(&b""[..]);
        if to.kind == DIRECTORY && !self.root.meets(to, granule) {
            self.root.await_(to);
            self.root.tick = self.bump();
            self.touch(Self::ROOT, self.tick);
            self.unverified.insert(Self::ROOT);
        }
    }

    /// The directory at a path, made if it is not known: as one that is to become we know not what.
    fn make_path(&mut self, path: &[u8], gone: &mut Vec<DirId>) -> Option<DirId> {
        let unknown = Expected {
            kind: DIRECTORY,
            mode: 0,
            size: 0,
            mtime: (0, 0),
        };
        let mut id = Self::ROOT;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            let at = self.place(id, name, true)?;
            if self.dir(id)?.records[at].child().is_none() {
                self.expect_at(id, at, &unknown, 1, gone);
            }
            id = self.dir(id)?.records[at].child()?;
        }
        Some(id)
    }

    fn expect_at(&mut self, dir: DirId, at: usize, to: &Expected, granule: u32, gone: &mut Vec<DirId>) {
        let Some((old, unread)) = self.dir(dir).map(|d| (d.records[at], !d.read)) else {
            return;
        };
        if matches!(to.kind, OTHER | UNREADABLE) {
            return;
        }
        self.trust_at(dir, &old, to.kind == GONE);
        let never = old.is_gone() && old.tick == 0 && unread;
        if old.meets(to, granule) && !never {
            return;
        }
        let mut new = old;
        new.await_(to);
        new.tick = self.bump();
        new.flag(
            WAS_DIR,
            to.kind != DIRECTORY && (old.kind() == DIRECTORY || old.has(WAS_DIR)),
        );
        match (old.child(), to.kind == DIRECTORY) {
            (Some(child), true) => new.size = u64::from(child),
            (Some(child), false) => gone.extend(self.drop_dir(child)),
            (None, true) => {
                let made = self.make_dir(dir, at, new.tick);
                new.size = u64::from(made);
                self.unverified.insert(made);
            }
            (None, false) => {}
        }
        self.put(dir, at, new);
        self.touch(dir, new.tick);
    }

    fn trust_at(&mut self, dir: DirId, record: &Record, below: bool) {
        if self.distrusted.is_empty() {
            return;
        }
        let Some(mut path) = self.path(dir) else {
            return;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        if let Some(known) = self.dir(dir) {
            path.extend_from_slice(known.name_of(record));
        }
        self.trust(&path, below);
    }
}

const GONE_NOW: Expected = Expected {
    kind: GONE,
    mode: 0,
    size: 0,
    mtime: (0, 0),
};

/// A path's directory and its name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
