//! The index against a disk that is simulated: whatever happens to the disk, and however it is looked at, the looks
//! since a tick turn what the disk was then into what it is, and name nothing that was not touched.

use std::collections::{BTreeMap, BTreeSet};

use super::expect::split;
use super::looks::each_untrusted;
use super::*;
use crate::list::{DIRECTORY, GONE, REGULAR, SYMLINK};

type Path = Vec<u8>;
type Disk = BTreeMap<Path, Stat>;

struct Rng(u64);

impl Rng {
    /// splitmix64
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// What one end agreed to, and when.
struct Agreed {
    key: [u8; 16],
    id: [u8; 16],
    tick: u64,
    disk: Disk,
    clock: u64,
}

struct World {
    rng: Rng,
    index: Index,
    disk: Disk,
    /// Grows with each thing done; inodes and times come from it.
    clock: u64,
    /// When each path was last touched, or expected.
    touched: BTreeMap<Path, u64>,
    dirty: BTreeSet<Path>,
    agreed: Vec<Agreed>,
}

fn join(dir: &[u8], name: &[u8]) -> Path {
    if dir.is_empty() {
        name.to_vec()
    } else {
        [dir, b"/", name].concat()
    }
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || (path.len() > dir.len() && path.starts_with(dir) && path[dir.len()] == b'/')
}

fn remove(disk: &mut Disk, path: &[u8]) -> Disk {
    let taken: Disk = disk.extract_if(.., |p, _| p == path || is_below(p, path)).collect();
    taken
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: Rng(seed),
            index: Index::new(),
            disk: Disk::new(),
            clock: 0,
            touched: BTreeMap::new(),
            dirty: BTreeSet::new(),
            agreed: Vec::new(),
        };
        let root = world.stat(DIRECTORY);
        world.disk.insert(Path::new(), root);
        for _ in 0..12 {
            world.happen();
        }
        world.dirty.clear();
        world.index.root_stat(world.disk[&Path::new()], 1);
        world.read(vec![Index::ROOT]);
        world.check();
        world
    }

    fn stat(&mut self, kind: u8) -> Stat {
        self.clock += 1;
        Stat {
            kind,
            mode: [0o600, 0o644, 0o700][self.rng.below(3)],
            size: if kind == DIRECTORY { 0 } else { self.rng.next() % 3 },
            mtime: (self.clock as i64, 0),
            ctime: (self.clock as i64, 0),
            ino: self.clock,
            linked: kind == REGULAR && self.rng.below(8) == 0,
            uid: 1,
            gid: 1,
        }
    }

    fn touch(&mut self, path: &[u8]) {
        self.clock += 1;
        self.touched.insert(path.to_vec(), self.clock);
        self.dirty.insert(path.to_vec());
        let (dir, _) = split(path);
        if let Some(stat) = self.disk.get_mut(dir).filter(|_| !path.is_empty()) {
            (stat.mtime, stat.ctime) = ((self.clock as i64, 0), (self.clock as i64, 0));
            self.touched.insert(dir.to_vec(), self.clock);
            self.dirty.insert(dir.to_vec());
        }
    }

    fn some_dir(&mut self) -> Path {
        let dirs: Vec<_> = self
            .disk
            .iter()
            .filter(|e| e.1.kind == DIRECTORY)
            .map(|e| e.0.clone())
            .collect();
        let at = self.rng.below(dirs.len());
        dirs[at].clone()
    }

    fn some_path(&mut self) -> Path {
        let dir = self.some_dir();
        join(&dir, &[b'a' + self.rng.below(5) as u8])
    }

    /// One thing that somebody does to the disk.
    fn happen(&mut self) {
        let path = self.some_path();
        match self.rng.below(10) {
            0..4 => {
                remove(&mut self.disk, &path);
                let kind = [REGULAR, REGULAR, SYMLINK][self.rng.below(3)];
                let stat = self.stat(kind);
                self.disk.insert(path.clone(), stat);
            }
            4..7 => {
                remove(&mut self.disk, &path);
                let stat = self.stat(DIRECTORY);
                self.disk.insert(path.clone(), stat);
            }
            7 => drop(remove(&mut self.disk, &path)),
            8 => {
                let to = self.some_path();
                if to == path || is_below(&to, &path) || is_below(&path, &to) || !self.disk.contains_key(&path) {
                    return;
                }
                remove(&mut self.disk, &to);
                for (from, stat) in remove(&mut self.disk, &path) {
                    self.disk.insert([&to, &from[path.len()..]].concat(), stat);
                }
                self.touch(&to);
            }
            _ => {
                if let Some(stat) = self.disk.get_mut(&path) {
                    (stat.mode, stat.ctime) = (stat.mode ^ 0o11, (self.clock as i64 + 1, 0));
                }
            }
        }
        self.touch(&path);
    }

    fn names(&self, dir: &[u8]) -> Vec<(Box<[u8]>, Stat)> {
        let inside = self.disk.iter().filter(|e| !e.0.is_empty() && split(e.0).0 == dir);
        inside.map(|e| (Box::from(split(e.0).1), *e.1)).collect()
    }

    /// Reads directories, and those that turn out to be new in them.
    fn read(&mut self, mut open: Vec<DirId>) {
        while let Some(id) = open.pop() {
            let Some(path) = self.index.path(id) else {
                continue;
            };
            let mut entries = self.names(&path);
            let at = self.rng.below(entries.len() + 1);
            entries.rotate_left(at);
            open.extend(self.index.listed(id, &mut entries, 1).new);
        }
    }

    /// Looks at all that is dirty, by name or by whole directory, and verifies what was expected.
    fn refresh(&mut self) {
        let now = |disk: &Disk, path: &[u8]| disk.get(path).copied();
        for path in std::mem::take(&mut self.dirty) {
            let (dir, name) = split(&path);
            match self.index.find(dir) {
                _ if path.is_empty() => self.index.root_stat(self.disk[&path], 1),
                Some(id) if self.rng.below(2) == 0 => self.read(vec![id]),
                Some(id) => match self.index.look(id, name, now(&self.disk, &path), 1) {
                    Seen::NewDir(new) => self.read(vec![new]),
                    Seen::Replaced { new, .. } => self.read(new.into_iter().collect()),
                    _ => {}
                },
                None => {}
            }
        }
        for id in self.index.take_unverified() {
            if !self.index.is_read(id) {
                self.read(vec![id]);
            }
            for name in self.index.unverified(id) {
                let path = join(&self.index.path(id).expect("it holds a name"), &name);
                match self.index.look(id, &name, now(&self.disk, &path), 1) {
                    Seen::NewDir(new) => self.read(vec![new]),
                    Seen::Replaced { new, .. } => self.read(new.into_iter().collect()),
                    _ => {}
                }
            }
        }
        self.index.root_stat(self.disk[&Path::new()], 1);
        self.index.recycle();
        // A directory that was only expected, and is there: in it may be others.
        if !self.index.unverified.is_empty() {
            self.refresh();
        }
    }

    /// A session writes one directory: some of it fails, some of it somebody else did otherwise.
    fn session(&mut self) {
        let dir = self.some_dir();
        let mut entries = BTreeMap::new();
        for _ in 0..self.rng.below(4) {
            let name = vec![b'a' + self.rng.below(5) as u8];
            let kind = [REGULAR, DIRECTORY, SYMLINK, GONE][self.rng.below(4)];
            entries.insert(name, self.stat(kind));
        }
        let deleting = self.rng.below(4) == 0;
        let expected = |stat: &Stat| Expected {
            kind: stat.kind,
            mode: stat.mode,
            size: stat.size,
            mtime: stat.mtime,
        };
        let mut told = entries.iter().map(|(name, stat)| (&name[..], expected(stat)));
        let rest = if deleting { Rest::Gone } else { Rest::Unsaid };
        self.index.expect(&dir, &mut told, rest, 1);
        let fails = self.rng.below(3) == 0;
        let strange: Vec<_> = self.names(&dir).into_iter().map(|e| e.0.to_vec()).collect();
        let gone = strange
            .into_iter()
            .filter(|name| deleting && !entries.contains_key(name))
            .collect::<Vec<_>>();
        for name in &gone {
            let path = join(&dir, name);
            self.touched.insert(path.clone(), self.clock);
            if !fails {
                remove(&mut self.disk, &path);
                self.touch(&path);
            }
        }
        for (name, mut stat) in entries {
            let path = join(&dir, &name);
            self.touch(&path);
            let there = self.disk.get(&path).copied();
            if fails && self.rng.below(2) == 0 {
                continue;
            }
            match (stat.kind, there) {
                (DIRECTORY, Some(there)) if there.kind == DIRECTORY => stat.ino = there.ino,
                _ => drop(remove(&mut self.disk, &path)),
            }
            if stat.kind != GONE {
                self.disk.insert(path, stat);
            }
        }
    }

    fn doubt(&mut self) {
        let path = self.some_path();
        self.index.distrust(&path, self.rng.below(2) == 0);
        let path = self.some_path();
        self.index.trust(&path, true);
    }

    fn agree(&mut self) {
        self.refresh();
        let key = [self.rng.below(3) as u8; 16];
        let id = self.clock.to_le_bytes();
        let id = std::array::from_fn(|i| id[i % 8]);
        self.index.commit(key, id, self.index.tick());
        self.agreed.push(Agreed {
            key,
            id,
            tick: self.index.tick(),
            disk: self.disk.clone(),
            clock: self.clock,
        });
        let index = &self.index;
        self.agreed
            .retain(|a| index.baselines(&a.key).contains(&(a.id, a.tick)));
    }

    fn save(&mut self) {
        let mut saved = Vec::new();
        self.index.save(&mut saved, b"of this").expect("memory takes all");
        let (index, identity) = Index::load(&saved).expect("what was saved");
        assert_eq!(identity, b"of this");
        assert_eq!(
            (index.entries(), index.dirs()),
            (self.index.entries(), self.index.dirs())
        );
        assert_eq!(index.changes(0, 1 << 20), self.index.changes(0, 1 << 20));
        let mut again = Vec::new();
        index.save(&mut again, b"of this").expect("memory takes all");
        assert!(again == saved);
        self.index = index;
    }

    fn check(&self) {
        let mut known = Disk::from([(Path::new(), self.disk[&Path::new()])]);
        let mut open = vec![Path::new()];
        while let Some(path) = open.pop() {
            let id = self.index.find(&path).expect("a directory of its own");
            assert_eq!(self.index.path(id).as_ref(), Some(&path));
            for (name, stat) in self.index.names(id) {
                known.insert(join(&path, name), stat);
                open.extend((stat.kind == DIRECTORY).then(|| join(&path, name)));
            }
        }
        assert_eq!(known, self.disk);
        assert_eq!(self.index.entries() + 1, self.disk.len());
        assert_eq!(
            self.index.dirs(),
            self.disk.values().filter(|s| s.kind == DIRECTORY).count()
        );
        let linked: Vec<_> = self
            .index
            .linked()
            .iter()
            .map(|(id, name)| join(&self.index.path(*id).expect("known"), name))
            .collect();
        let linked: BTreeSet<_> = linked.iter().collect();
        assert_eq!(linked, self.disk.iter().filter(|e| e.1.linked).map(|e| e.0).collect());
        for agreed in &self.agreed {
            self.check_since(agreed);
        }
    }

    fn check_since(&self, agreed: &Agreed) {
        let payload = self.index.changes(agreed.tick, 1 << 20).expect("few changes");
        let looks = each_untrusted(&payload).expect("our own looks");
        let mut disk = agreed.disk.clone();
        for look in &looks {
            let since = |path: &[u8]| self.touched.get(path).is_some_and(|&clock| clock > agreed.clock);
            let distrusted = self.index.distrusted.contains_key(look.path);
            assert!(
                distrusted || since(look.path),
                "a look at what was not touched: {look:?}"
            );
            assert!(distrusted || self.index.changed_since(look.path, agreed.tick));
            let others = looks
                .iter()
                .filter(|other| other.path == look.path || other.deep && is_below(look.path, other.path));
            assert_eq!(others.count(), 1, "{look:?} is covered by another look");
            let there = self.disk.get(look.path);
            let stays = !look.deep && there.is_some_and(|s| s.kind == DIRECTORY);
            if !stays {
                remove(&mut disk, look.path);
            }
            disk.extend(there.map(|stat| (look.path.to_vec(), *stat)));
            if look.deep {
                disk.extend(
                    self.disk
                        .iter()
                        .filter(|e| is_below(e.0, look.path))
                        .map(|e| (e.0.clone(), *e.1)),
                );
            }
        }
        for (path, &deep) in &self.index.distrusted {
            let covers = |look: &looks::Look<'_>| match look.path == path {
                true => look.deep || !deep,
                false => look.deep && is_below(path, look.path),
            };
            assert!(
                looks.iter().any(covers),
                "nobody looks at {path:?}, which is distrusted"
            );
        }
        let plain = |disk: &Disk| {
            let all = disk
                .iter()
                .map(|(path, s)| (path.clone(), (s.kind, s.mode, s.size, s.mtime)));
            all.collect::<BTreeMap<_, _>>()
        };
        assert_eq!(plain(&disk), plain(&self.disk));
    }
}

#[test]
fn looks_turn_what_was_agreed_into_what_is() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        for _ in 0..40 {
            for _ in 0..world.rng.below(6) {
                world.happen();
            }
            match world.rng.below(4) {
                0 => world.session(),
                1 => world.agree(),
                2 => world.save(),
                _ => world.doubt(),
            }
            world.refresh();
            world.check();
        }
    }
}
