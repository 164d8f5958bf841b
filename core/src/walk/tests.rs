use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use super::part::PART_ENTRIES;
use super::*;

/// A directory that goes with its owner.
pub(super) struct Place(pub(super) PathBuf);

impl Place {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("walk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a place");
        Self(path)
    }

    pub(super) fn files(&self, dir: &str, count: usize) {
        let dir = self.0.join(dir);
        fs::create_dir_all(&dir).expect("a directory");
        for i in 0..count {
            fs::write(dir.join(format!("file{i}")), b"").expect("a file");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Path, flags, errno, names.
pub(super) type Seen = (Vec<u8>, u8, i32, Vec<Vec<u8>>);

/// Every part, in order; `room` more are taken.
pub(super) struct Parts {
    pub(super) parts: Mutex<Vec<Seen>>,
    room: AtomicUsize,
}

impl Parts {
    pub(super) fn new(room: usize) -> Self {
        Self {
            parts: Mutex::default(),
            room: AtomicUsize::new(room),
        }
    }
}

impl Sink for Parts {
    fn part(&self, part: &Part<'_>) -> bool {
        let less = |room: usize| room.checked_sub(1);
        if self
            .room
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_err()
        {
            return false;
        }
        let names = part.entries().map(|entry| entry.name.to_vec()).collect();
        lock(&self.parts).push((part.path.to_vec(), part.flags, part.errno, names));
        true
    }
}

fn walk(place: &Place, patterns: &[&[u8]], sink: &Parts, threads: usize) {
    let whole = Start {
        path: Vec::new(),
        deep: true,
    };
    walk_at(vec![whole], place, patterns, sink, threads);
}

fn walk_at(starts: Vec<Start>, place: &Place, patterns: &[&[u8]], sink: &Parts, threads: usize) {
    use std::os::unix::ffi::OsStrExt;
    let root = Root::open(place.0.as_os_str().as_bytes()).expect("a root");
    let patterns: Vec<Vec<u8>> = patterns.iter().map(|p| p.to_vec()).collect();
    let options = Options {
        filter: Filter::new(&patterns).expect("patterns"),
        hashes: false,
        known: None,
    };
    let stop = AtomicBool::new(false);
    let profile = Profile::new(false);
    let walk = Walk::at(starts, &root, &options, sink, &profile, &stop);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| walk.run(|| ()));
        }
    });
    assert_eq!(walk.handles.load(Ordering::Relaxed), 0, "a handle was kept");
}

#[test]
fn parts_come_in_order_and_after_their_parents() {
    let place = Place::new();
    for i in 0..40 {
        place.files(&format!("a{}/b{}/c{i}", i % 3, i % 7), i);
    }
    place.files("wide", 5 * PART_ENTRIES / 2);
    for threads in [1, 2, 8] {
        let sink = Parts::new(usize::MAX);
        walk(&place, &[], &sink, threads);
        let mut listed: HashSet<Vec<u8>> = HashSet::from([vec![]]);
        let mut flags: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        for (path, flag, errno, names) in lock(&sink.parts).iter() {
            assert!(listed.contains(path) && *errno == 0);
            flags.entry(path.clone()).or_default().push(*flag);
            for name in names.iter().filter(|name| !name.is_empty()) {
                let mut full = Vec::new();
                join(&mut full, path, name);
                assert!(listed.insert(full));
            }
        }
        let files = (0..40).sum::<usize>() + 5 * PART_ENTRIES / 2;
        assert_eq!(listed.len(), 1 + 1 + 3 + 21 + 40 + files);
        assert_eq!(flags.remove(&b"wide"[..]), Some(vec![list::FIRST, 0, list::LAST]));
        assert!(flags.values().all(|f| *f == [list::FIRST | list::LAST]));
    }
}

#[test]
fn the_root_comes_first_with_an_entry_of_its_own() {
    let place = Place::new();
    let sink = Parts::new(usize::MAX);
    walk(&place, &[], &sink, 1);
    let whole = list::FIRST | list::LAST;
    assert_eq!(*lock(&sink.parts), [(vec![], whole, 0, vec![vec![]])]);
}

#[test]
fn an_excluded_directory_is_not_entered() {
    let place = Place::new();
    place.files("keep", 2);
    place.files("drop/keep", 2);
    let sink = Parts::new(usize::MAX);
    walk(&place, &[b"/drop/", b"file1"], &sink, 2);
    let paths: Vec<_> = lock(&sink.parts).iter().map(|part| part.0.clone()).collect();
    assert_eq!(paths, [&b""[..], b"keep"]);
    assert_eq!(lock(&sink.parts)[1].3, [b"file0"]);
}

#[test]
fn a_sink_that_takes_no_more_ends_the_walk() {
    let place = Place::new();
    for i in 0..50 {
        place.files(&format!("d{i}"), 1);
    }
    for room in [0, 1, 20] {
        let sink = Parts::new(room);
        walk(&place, &[], &sink, 3);
        assert_eq!(lock(&sink.parts).len(), room);
    }
}

#[test]
fn a_directory_without_handles_to_spare_is_walked_all_the_same() {
    let place = Place::new();
    let deep: String = (0..2 * HANDLES_MAX).map(|_| "d/").collect();
    place.files(&deep, 1);
    let sink = Parts::new(usize::MAX);
    walk(&place, &[], &sink, 2);
    assert_eq!(lock(&sink.parts).len(), 2 * HANDLES_MAX + 1);
}

#[test]
fn a_walk_may_begin_anywhere_and_be_shallow() {
    let place = Place::new();
    place.files("a/b/c", 1);
    place.files("d/e", 1);
    let sink = Parts::new(usize::MAX);
    let start = |path: &[u8], deep| Start {
        path: path.to_vec(),
        deep,
    };
    let starts = vec![start(b"a/b", true), start(b"d", false), start(b"gone", true)];
    walk_at(starts, &place, &[], &sink, 1);
    let parts = lock(&sink.parts);
    let seen: Vec<_> = parts
        .iter()
        .map(|(path, flags, ..)| (&path[..], flags & list::INCOMPLETE))
        .collect();
    assert_eq!(
        seen,
        [(&b"a/b"[..], 0), (b"a/b/c", 0), (b"d", 0), (b"gone", list::INCOMPLETE)]
    );
}
