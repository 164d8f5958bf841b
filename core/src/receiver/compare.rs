//! The generator: takes file-list chunks in order, makes directories and symlinks, and says what else to send.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::aliases::Aliases;
use super::dirs::{Dir, Dirs, Here, Parts};
use super::entries::At;
use super::groups::{self, Follower};
use super::linking::Member;
use super::outbox::add;
use super::queue::Input;
use super::state::{Home, Pending, Place};
use super::{Shared, problem};
use crate::beneath::{join, lock};
use crate::compress;
use crate::list::{self, Chunk, DIRECTORY, Entry, Group, REGULAR};
use crate::profile::Stage;

/// Why a chunk was not finished: the reason was given to `Shared::fail`.
pub struct Stop;

/// One step of it.
pub type Step<T> = Result<T, Stop>;

/// Runs until the list has ended or the session stops.
pub fn run(shared: &Shared) {
    let mut generator = Generator {
        shared,
        next: 0,
        entries: 0,
        hasher: blake3::Hasher::new(),
        distrusted: RefCell::default(),
        begun: false,
        skipping: shared.options.skip_first,
        between: false,
        ended: false,
    };
    let next = || shared.queue.next_input(|| shared.stopped());
    while let Some(input) = shared.profile.time(Stage::Idle, next) {
        let step = shared.profile.time(Stage::Compare, || match input {
            Input::Chunk(n, data) => generator.chunk(n, data),
            Input::End(chunks, entries, hash) => generator.end(chunks, entries, hash),
        });
        if step.is_err() {
            return;
        }
        shared.grow();
    }
}

/// The thread's state.
pub struct Generator<'a> {
    pub(super) shared: &'a Shared,
    next: u32,
    entries: u64,
    hasher: blake3::Hasher,
    /// Paths to tell the tree about, and whether with all below.
    pub(super) distrusted: RefCell<Vec<(Vec<u8>, bool)>>,
    /// The root is known.
    begun: bool,
    /// What comes before the first LIST-END is of no use.
    skipping: bool,
    /// A LIST-END came that was not the last, and nothing behind it.
    between: bool,
    ended: bool,
}

/// What a chunk's comparison found.
#[derive(Default)]
pub struct Found {
    pub wanted: Vec<(u32, Place)>,
    /// Wanted entries with a basis, and the partial to use where there is one.
    pub basis: Vec<(u32, Option<Vec<u8>>)>,
    /// Entries that are names of one file with others: what they mean is seen when all of the chunk are known.
    pub members: Vec<Member>,
    /// Those that are to be linked to another one.
    pub followers: Vec<Follower>,
    /// Wanted entries that the sender does not send unasked.
    pub again: Vec<u32>,
}

impl Generator<'_> {
    pub(super) fn violation<T>(&self, what: &str) -> Step<T> {
        self.shared.violation(what);
        Err(Stop)
    }

    fn chunk(&mut self, n: u32, data: Vec<u8>) -> Step<()> {
        let shared = self.shared;
        if n != self.next || self.ended {
            return self.violation("file-list chunks out of order");
        }
        let packed = compress::header_untrusted(&data).or_else(|what| self.violation(what))?;
        let data = match &packed {
            Some(header) => {
                let unpack = || compress::unpack_untrusted(&data, header);
                let raw = shared.profile.time(Stage::Decompress, unpack);
                raw.or_else(|what| self.violation(what))?
            }
            None => data,
        };
        self.hasher.update(&data);
        let chunk = Chunk::parse_untrusted(data).or_else(|what| self.violation(what))?;
        if packed.is_some_and(|header| header.flags != chunk.flags() || header.chunk != n) {
            return self.violation("a file-list chunk that is not what its packing says");
        }
        let columns = [
            (list::OWNERS, shared.options.owner || shared.options.group),
            (list::HASHES, shared.options.hashes),
        ];
        if columns
            .iter()
            .any(|&(flag, asked)| (chunk.flags() & flag != 0) != asked)
        {
            return self.violation("a file list without what was asked for, or with more");
        }
        if chunk.flags() & list::ORIGINS != 0 && !shared.options.partial {
            return self.violation("names that went where all were asked for");
        }
        let others = self.other_names(&chunk)?;
        self.next += 1;
        self.entries += chunk.entries() as u64;
        if self.skipping {
            let homes = chunk.groups().iter().map(|_| Home::default()).collect();
            let found = Found {
                wanted: dropped(&chunk),
                ..Found::default()
            };
            self.announce(n, chunk, homes, found);
            return Ok(());
        }
        // What is listed once more is compared with what the first time has made of it.
        if std::mem::take(&mut self.between) && !shared.queue.settle(|| shared.stopped()) {
            return Err(Stop);
        }
        let first = !std::mem::replace(&mut self.begun, true);
        if first {
            self.begin(&chunk)?;
        } else if chunk.flags() & list::SINGLE != 0 {
            return self.violation("a second chunk for a single file");
        }
        add(&shared.counters.listed, chunk.entries() as u64);
        add(
            &shared.counters.listed_bytes,
            (0..chunk.entries() as u32).map(|i| chunk.entry(i).size).sum(),
        );
        let mut found = Found::default();
        let mut homes = Vec::with_capacity(chunk.groups().len());
        {
            let mut dirs = lock(&shared.dirs);
            dirs.listed(chunk.len() as u64);
            for (at, group) in chunk.groups().iter().enumerate() {
                homes.push(self.group(&mut dirs, &chunk, (first, at), group, &mut found)?);
            }
            if !chunk.links().is_empty() {
                self.linked(&mut dirs, n, &chunk, &others, &mut found)?;
            }
        }
        self.tell_distrusted();
        add(&shared.counters.compared, chunk.entries() as u64);
        if shared.wants_all || chunk.is_ahead() {
            // What a WANT would have to say, the sender does not hear.
            found.basis.clear();
        }
        self.announce(n, chunk, homes, found);
        Ok(())
    }

    /// Says WANT, and hands the chunk to the workers or forgets it.
    fn announce(&self, n: u32, chunk: Chunk, homes: Vec<Home>, found: Found) {
        let shared = self.shared;
        if !shared.wants_all {
            let width = chunk.entries().div_ceil(8);
            let mut payload = vec![0; 2 * width];
            for (i, _) in found.wanted.iter().filter(|_| !chunk.is_ahead()) {
                payload[*i as usize >> 3] |= 1 << (i & 7);
            }
            for (i, _) in &found.basis {
                payload[width + (*i as usize >> 3)] |= 1 << (i & 7);
            }
            shared.out.event(("want", n, Some(payload)));
        }
        let followers = found.followers.len() as u64;
        let wanted = found.wanted.len() as u64;
        if wanted + followers == 0 {
            shared.out.forget(n, chunk.len() as u64);
        } else {
            add(&shared.counters.wanted_files, wanted);
            let bytes = found.wanted.iter().map(|&(i, _)| chunk.entry(i).size).sum();
            add(&shared.counters.wanted_bytes, bytes);
            let pending = Arc::new(Pending::new(n, chunk, homes, &found.wanted, followers));
            lock(&shared.pending).insert(n, pending);
        }
        shared.queue.compared(n, wanted, found.followers);
        for i in found.again {
            groups::say(shared, (n, i));
        }
        for (i, partial) in found.basis {
            shared.queue.basis(n, i, partial);
        }
    }

    fn end(&mut self, chunks: u32, entries: u64, hash: [u8; 32]) -> Step<()> {
        if self.ended || chunks != self.next || entries != self.entries || *self.hasher.finalize().as_bytes() != hash {
            return self.violation("the file list does not match its end");
        }
        if self.next == 0 && !self.shared.options.partial {
            return self.violation("a file list without a root");
        }
        self.whole_directories(&mut lock(&self.shared.dirs))?;
        self.skipping = false;
        self.ended = self.shared.queue.end();
        self.between = !self.ended;
        if !self.ended {
            return Ok(());
        }
        self.shared.counters.list_done.store(1, Ordering::Release);
        self.shared.queue.ended().or_else(|what| self.violation(what))
    }

    /// At a LIST-END every listing that was to come is there; directories that have none are made.
    fn whole_directories(&self, dirs: &mut Dirs) -> Step<()> {
        let open = |dir: &Dir| matches!(dir.parts, Parts::None | Parts::Some) && dir.complete;
        if dirs.list.iter().any(open) && self.shared.single.get().is_none() {
            return self.violation("the file list ended before all its directories did");
        }
        for n in 0..dirs.list.len() {
            if dirs.list[n].due && !dirs.is_retracted(&dirs.list[n].path) {
                self.make_in_place(&mut dirs.list[n]);
            }
        }
        Ok(())
    }

    /// One group. `first` says whether its chunk is the first that counts, `at` which one of the chunk's groups it is.
    fn group(
        &self,
        dirs: &mut Dirs,
        chunk: &Chunk,
        (first, at): (bool, usize),
        group: &Group,
        found: &mut Found,
    ) -> Step<Home> {
        let path = chunk.path(group).to_vec();
        let named = group.flags & list::PARTIAL != 0;
        if named && !self.shared.options.partial {
            return self.violation("single names where all were asked for");
        }
        let mut from = group.start;
        if first && at == 0 && self.shared.single.get().is_some() {
            let mut entry = chunk.entry(group.start);
            // The parent's own metadata are not ours to set.
            entry.kind = DIRECTORY;
            let _ = dirs.add(b"", &entry, Here::Existing, false, true);
        } else if self.begins_with_root(chunk, first, at, group) {
            self.root_entry(dirs, &chunk.entry(group.start), named)?;
            from += 1;
        }
        let Some(number) = dirs.find(&path) else {
            return self.violation("a directory that was not listed");
        };
        match named {
            true => self.reach_named(&mut dirs.list[number as usize]),
            false => self.part(dirs, number, group)?,
        }
        let dir = &mut dirs.list[number as usize];
        dir.empty &= named || from == group.start + group.entries;
        let fresh = match dir.due {
            true => self.make(dir, number, chunk, group),
            false => None,
        };
        let fd = match dir.here {
            Here::New | Here::Existing if fresh.is_none() => match self.shared.handles().and_then(|h| h.dir(&path)) {
                Ok(fd) => Some(fd),
                Err(e) => {
                    dirs.list[number as usize].here = Here::Blocked;
                    self.shared.trouble(problem::WRITE, &path, &e);
                    None
                }
            },
            _ => None,
        };
        let whole = group.flags & (list::FIRST | list::LAST) == list::FIRST | list::LAST;
        self.duplicates(dirs, number, chunk, from, group, whole)?;
        let mut aliases = Aliases::new(chunk, from, group);
        for i in from..group.start + group.entries {
            if self.shared.stopped() {
                return Err(Stop);
            }
            let entry = self.renamed(chunk.entry(i));
            let mut place = At {
                dir: number,
                fd: fd.as_deref(),
                named,
                moved: dirs.list[number as usize].moved,
                path: join(&path, entry.name),
                link: chunk.link_of(i),
                meta: None,
            };
            self.entry(dirs, i, &entry, &mut place, &mut aliases, found)?;
            let wanted = found.wanted.last().is_some_and(|&(last, _)| last == i);
            let comes = self.shared.wants_all || chunk.is_ahead();
            if comes && entry.kind == REGULAR && !wanted && place.link.is_none() {
                found.wanted.push((i, Place::Nowhere));
            }
        }
        if group.flags & list::INCOMPLETE != 0 {
            dirs.list[number as usize].complete = false;
            self.distrust(&path, true);
            let out = &self.shared.out;
            out.problem(&self.shared.counters, problem::UNREADABLE_DIR, group.errno, &path);
        }
        self.tell(&dirs.list[number as usize], fd.as_deref(), chunk, group, &aliases);
        if group.flags & list::LAST != 0 && !named {
            self.close(&mut dirs.list[number as usize], fd.as_deref());
        }
        let touched = Arc::clone(&dirs.list[number as usize].touched);
        Ok(Home { touched, fresh })
    }

    /// Whether a group's first entry is the root itself: the list begins with it. In a partial one it may come again.
    fn begins_with_root(&self, chunk: &Chunk, first: bool, at: usize, group: &Group) -> bool {
        let again = || self.shared.options.partial && group.entries > 0 && chunk.entry(group.start).name.is_empty();
        at == 0 && (first || again())
    }

    /// A single file has the destination's name, not the source's.
    fn renamed<'b>(&'b self, mut entry: Entry<'b>) -> Entry<'b> {
        if let Some(name) = self.shared.single.get() {
            entry.name = name;
        }
        entry
    }

    /// Checks the order of a directory's parts, and reads its names at the destination before the first.
    fn part(&self, dirs: &mut Dirs, number: u32, group: &Group) -> Step<()> {
        let dir = &mut dirs.list[number as usize];
        let first = group.flags & list::FIRST != 0;
        let fits = match dir.parts {
            Parts::None => first,
            Parts::Some => !first,
            Parts::All | Parts::Unasked => first && self.shared.options.partial,
        };
        if !fits {
            return self.violation("a directory's parts out of order");
        }
        if first {
            (dir.complete, dir.empty) = (true, true);
            if self.shared.options.partial && dir.here == Here::New && !dir.due {
                // What was put there before is among what is there.
                dir.here = Here::Existing;
            }
        }
        dir.parts = if group.flags & list::LAST != 0 {
            Parts::All
        } else {
            Parts::Some
        };
        if first && dir.here == Here::Existing {
            self.enter(dir);
        }
        Ok(())
    }

    fn duplicates(
        &self,
        dirs: &mut Dirs,
        number: u32,
        chunk: &Chunk,
        from: u32,
        group: &Group,
        whole: bool,
    ) -> Step<()> {
        let mut names = (from..group.start + group.entries).map(|i| chunk.entry(i).name);
        let doubled = if whole {
            let mut sorted: Vec<&[u8]> = names.collect();
            sorted.sort_unstable();
            sorted.windows(2).any(|pair| pair[0] == pair[1])
        } else {
            let listed = &mut dirs.list[number as usize].listed;
            names.any(|name| !listed.insert(name.into()))
        };
        if doubled {
            return self.violation("a name that is listed twice");
        }
        Ok(())
    }
}

/// What comes of a chunk that is of no use.
fn dropped(chunk: &Chunk) -> Vec<(u32, Place)> {
    let comes = |i: &u32| chunk.is_ahead() && chunk.entry(*i).kind == REGULAR;
    let files = (0..chunk.entries() as u32).filter(comes);
    files.map(|i| (i, Place::Nowhere)).collect()
}
