//! Tests of a tree against a real directory: what a refresh leaves equals what a walk finds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::dirty::bits;
use super::*;
use crate::beneath;
use crate::list::{DIRECTORY, REGULAR, SYMLINK};

pub(super) const PLENTY: usize = 1 << 20;
pub(super) const SWEEP: usize = 2048;

/// A directory that goes with its owner: `root`, and room beside it.
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tree-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("root")).expect("a place");
        Self(path)
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.0.join("root").join(path)
    }

    pub(super) fn outside(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    pub(super) fn write(&self, path: &str, content: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, content).expect("a file");
    }

    pub(super) fn tree(&self) -> Tree {
        self.tree_with(PLENTY, &[])
    }

    pub(super) fn tree_with(&self, watches_max: usize, filters: &[&str]) -> Tree {
        let filters: Vec<Vec<u8>> = filters.iter().map(|f| f.as_bytes().to_vec()).collect();
        let root = self.at("").as_os_str().as_bytes().to_vec();
        Tree::new(root, &filters, None, 2, watches_max, Wake::new(-1)).expect("a tree")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) type Entries = BTreeMap<Vec<u8>, (u8, u16, u64, (i64, u32), u64)>;

pub(super) fn known(tree: &Tree) -> Entries {
    let state = lock(&tree.state);
    let mut all = Entries::new();
    let mut open = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let dir = state.index.find(&path).expect("a directory");
        assert!(state.places.knows(dir), "neither watched nor polled: {path:?}");
        for (name, stat) in state.index.names(dir) {
            let full = beneath::join(&path, name);
            if stat.kind == DIRECTORY {
                open.push(full.clone());
            }
            all.insert(full, (stat.kind, stat.mode, stat.size, stat.mtime, stat.ino));
        }
    }
    let dirs = state.index.dirs();
    assert!(state.places.watched() <= dirs && state.places.polled().len() <= dirs);
    all
}

pub(super) fn real(root: &Path) -> Entries {
    let mut all = Entries::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("there");
            let kind = match meta.file_type() {
                t if t.is_dir() => DIRECTORY,
                t if t.is_file() => REGULAR,
                _ => SYMLINK,
            };
            let size = if kind == DIRECTORY { 0 } else { meta.size() };
            let mode = (meta.mode() & 0o7777) as u16;
            let mtime = (meta.mtime(), meta.mtime_nsec() as u32);
            let name = path.strip_prefix(root).expect("below").as_os_str().as_bytes().to_vec();
            all.insert(name, (kind, mode, size, mtime, meta.ino()));
            if kind == DIRECTORY {
                open.push(path);
            }
        }
    }
    all
}

pub(super) fn check(tree: &Tree, place: &Place) {
    assert!(tree.refresh(false, SWEEP).expect("a refresh"));
    assert_eq!(known(tree), real(&place.at("")));
}

pub(super) fn changed(tree: &Tree, since: u64) -> Vec<(String, bool)> {
    let looks = tree.changes(since, 1 << 20).expect("few changes");
    let looks = looks::each_untrusted(&looks).expect("looks");
    let name = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    looks.iter().map(|look| (name(look.path), look.deep)).collect()
}

pub(super) fn counter(tree: &Tree, name: &str) -> u64 {
    tree.counters().iter().find(|c| c.0 == name).expect(name).1
}

#[test]
fn what_happens_is_seen_by_the_next_refresh() {
    let place = Place::new();
    place.write("a/b/f", "1");
    let tree = place.tree();
    assert!(tree.is_new());
    check(&tree, &place);
    assert!(!tree.is_new());
    let before = tree.tick();
    assert_eq!(changed(&tree, before), []);
    let rescans = counter(&tree, "rescans");

    place.write("a/b/f", "22");
    check(&tree, &place);
    assert_eq!(changed(&tree, before), [("a/b/f".to_owned(), false)]);
    place.write("a/new/deep/er/g", "3");
    check(&tree, &place);
    place.write("a/new/deep/er/g", "33");
    fs::set_permissions(place.at("a/b/f"), fs::Permissions::from_mode(0o600)).expect("chmod");
    symlink("f", place.at("a/b/link")).expect("symlink");
    check(&tree, &place);
    fs::rename(place.at("a/new"), place.at("moved")).expect("rename");
    check(&tree, &place);
    place.write("moved/deep/er/h", "4");
    check(&tree, &place);
    fs::create_dir(place.at("over")).expect("mkdir");
    check(&tree, &place);
    fs::rename(place.at("moved"), place.at("over")).expect("rename over");
    check(&tree, &place);
    place.write("over/deep/er/i", "5");
    check(&tree, &place);
    fs::rename(place.at("over"), place.outside("out")).expect("rename out");
    check(&tree, &place);
    fs::write(place.outside("out/deep/er/i"), "outside").expect("write");
    fs::rename(place.outside("out"), place.at("in")).expect("rename in");
    check(&tree, &place);
    fs::remove_dir_all(place.at("a")).expect("rm");
    place.write("a", "a file now");
    check(&tree, &place);
    assert_eq!(counter(&tree, "rescans"), rescans);
    let state = lock(&tree.state);
    assert_eq!(state.places.watched(), state.index.dirs());
}

#[test]
fn directories_that_change_places_are_told_apart() {
    let place = Place::new();
    place.write("a/x/f", "1");
    place.write("b/y/g", "2");
    let tree = place.tree();
    check(&tree, &place);
    for _ in 0..3 {
        fs::rename(place.at("a"), place.at("c")).expect("rename");
        fs::rename(place.at("b"), place.at("a")).expect("rename");
        fs::rename(place.at("c"), place.at("b")).expect("rename");
        check(&tree, &place);
        for dir in ["a/x", "a/y", "b/x", "b/y"] {
            if place.at(dir).exists() {
                place.write(&format!("{dir}/more"), "more");
            }
        }
        check(&tree, &place);
    }
    fs::rename(place.at("a"), place.at("b/inside")).expect("rename");
    symlink("b/inside", place.at("a")).expect("symlink");
    check(&tree, &place);
}

#[test]
fn what_is_made_before_its_directory_is_watched_is_seen() {
    let place = Place::new();
    let tree = place.tree();
    check(&tree, &place);
    for round in 0..100 {
        place.write(&format!("r{round}/a/b/c/d/first"), "1");
        place.write(&format!("r{round}/a/second"), "2");
        check(&tree, &place);
    }
}

#[test]
fn lost_events_end_in_the_right_tree() {
    let place = Place::new();
    place.write("a/f", "1");
    place.write("b/g", "1");
    let tree = place.tree();
    check(&tree, &place);
    fs::write(place.at("a/f"), "changed").expect("write");
    fs::remove_dir_all(place.at("b")).expect("rm");
    place.write("c/d/h", "new");
    if let Some(watch) = &tree.watch {
        watch.drain();
    }
    {
        let mut dirty = lock(&tree.dirty);
        dirty.take();
        dirty.event(-1, bits::Q_OVERFLOW, b"", Instant::now());
    }
    check(&tree, &place);
    assert_eq!((counter(&tree, "overflows"), counter(&tree, "rescans")), (1, 2));
    place.write("c/d/h", "again");
    check(&tree, &place);
    assert_eq!(counter(&tree, "rescans"), 2);
}

#[test]
fn a_queue_that_runs_over_is_noticed() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap_or_default();
    let Some(limit) = limit.trim().parse::<usize>().ok().filter(|&n| n <= 1 << 16) else {
        return; // More than a test should write.
    };
    let place = Place::new();
    place.write("a/f", "1");
    let tree = place.tree();
    check(&tree, &place);
    {
        // Nobody folds events meanwhile.
        let _frozen = lock(&tree.dirty);
        for i in 0..limit / 2 + 4096 {
            place.write(&format!("a/{i}"), "");
        }
        fs::rename(place.at("a"), place.at("b")).expect("rename");
    }
    check(&tree, &place);
    assert!(counter(&tree, "overflows") > 0);
    place.write("b/f", "2");
    check(&tree, &place);
    assert_eq!(counter(&tree, "rescans"), 2);
}

#[test]
fn beyond_the_limit_directories_are_polled() {
    let place = Place::new();
    for i in 0..20 {
        place.write(&format!("d{i}/f"), "1");
    }
    let tree = place.tree_with(10, &[]);
    check(&tree, &place);
    let (watched, polled) = (counter(&tree, "watches"), counter(&tree, "unwatched"));
    // Each of two walkers may ask whether there is room before the other has taken it.
    assert!(
        (10..=11).contains(&watched) && watched + polled == 21,
        "{watched} {polled}"
    );
    assert!(
        tree.notice().contains("fs.inotify.max_user_watches"),
        "{}",
        tree.notice()
    );
    for i in 0..20 {
        place.write(&format!("d{i}/f"), "changed");
        place.write(&format!("d{i}/new/g"), "new");
    }
    check(&tree, &place);
    for i in 0..20 {
        fs::remove_dir_all(place.at(&format!("d{i}/new"))).expect("rm");
    }
    check(&tree, &place);
    fs::rename(place.at("d3"), place.at("e3")).expect("rename");
    check(&tree, &place);
    let none = place.tree_with(0, &[]);
    check(&none, &place);
    place.write("d1/f", "once more");
    check(&none, &place);
    assert_eq!(counter(&none, "watches"), 0);
}

#[test]
fn a_change_through_another_name_is_seen() {
    let place = Place::new();
    place.write("a/f", "1");
    fs::hard_link(place.at("a/f"), place.outside("other")).expect("link");
    let tree = place.tree();
    check(&tree, &place);
    let before = tree.tick();
    fs::write(place.outside("other"), "from outside").expect("write");
    check(&tree, &place);
    assert_eq!(changed(&tree, before), [("a/f".to_owned(), false)]);
}

#[test]
fn a_change_through_a_name_that_no_event_told_of_is_seen() {
    let place = Place::new();
    place.write("a/f", "1");
    place.write("g", "1");
    let tree = place.tree();
    check(&tree, &place);
    for path in ["a/f", "g"] {
        let before = tree.tick();
        fs::hard_link(place.at(path), place.outside("other")).expect("link");
        fs::write(place.outside("other"), "from outside").expect("write");
        fs::remove_file(place.outside("other")).expect("unlink");
        check(&tree, &place);
        assert_eq!(changed(&tree, before), [(path.to_owned(), false)]);
    }
}

#[test]
fn every_file_is_swept_in_its_turn() {
    let place = Place::new();
    for dir in 0..5 {
        for file in 0..1000 {
            place.write(&format!("d{dir}/f{file}"), "1");
        }
    }
    let tree = place.tree();
    check(&tree, &place);
    let before = tree.tick();
    for path in ["d0/f0", "d2/f500", "d4/f999"] {
        fs::hard_link(place.at(path), place.outside("other")).expect("link");
        fs::write(place.outside("other"), "from outside").expect("write");
        fs::remove_file(place.outside("other")).expect("unlink");
    }
    for _ in 0..4 {
        tree.refresh(false, SWEEP).expect("a refresh");
    }
    let mut found = changed(&tree, before);
    found.sort();
    assert_eq!(
        found.iter().map(|(path, _)| &path[..]).collect::<Vec<_>>(),
        ["d0/f0", "d2/f500", "d4/f999"]
    );
}

#[test]
fn a_short_sweep_is_enough_for_a_small_tree() {
    let place = Place::new();
    for file in 0..200 {
        place.write(&format!("f{file}"), "1");
    }
    let tree = place.tree();
    check(&tree, &place);
    for path in ["f0", "f199"] {
        let before = tree.tick();
        fs::hard_link(place.at(path), place.outside("other")).expect("link");
        fs::write(place.outside("other"), "from outside").expect("write");
        fs::remove_file(place.outside("other")).expect("unlink");
        tree.refresh(false, 256).expect("a refresh");
        assert_eq!(changed(&tree, before), [(path.to_owned(), false)]);
    }
}

#[test]
fn a_file_that_is_written_is_held() {
    let place = Place::new();
    place.write("a/f", "old");
    let tree = place.tree();
    check(&tree, &place);
    let before = tree.tick();
    let mut file = File::create(place.at("a/f")).expect("open");
    assert!(tree.refresh(true, SWEEP).expect("a refresh"));
    file.write_all(b"half").expect("write");
    place.write("a/other", "done");
    assert!(tree.refresh(true, SWEEP).expect("a refresh"));
    assert_eq!(
        changed(&tree, before),
        [("a".to_owned(), false), ("a/other".to_owned(), false)]
    );
    assert!(tree.held().is_some_and(|due| due > Duration::from_secs(1)));
    drop(file);
    assert!(tree.refresh(true, SWEEP).expect("a refresh"));
    assert!(changed(&tree, before).contains(&("a/f".to_owned(), false)));
    assert_eq!(tree.held(), None);
    let _file = File::create(place.at("a/f")).expect("open");
    check(&tree, &place);
}

#[test]
fn saves_are_told_from_what_is_under_way() {
    let place = Place::new();
    place.write("a/f", "old");
    place.write("a/g", "old");
    let tree = place.tree();
    check(&tree, &place);
    let rests = |tree: &Tree, rest: bool, what: &str| {
        if let Some(watch) = &tree.watch {
            watch.drain();
        }
        assert_eq!(tree.at_rest(), rest, "{what}");
        check(tree, &place);
    };
    rests(&tree, false, "nothing");
    place.write("a/f", "written");
    rests(&tree, true, "written and closed");
    place.write("a/f.tmp", "new");
    fs::rename(place.at("a/f.tmp"), place.at("a/f")).expect("rename");
    rests(&tree, true, "written beside and renamed");
    fs::rename(place.at("a/f"), place.at("a/f~")).expect("rename");
    place.write("a/f", "rewritten");
    fs::remove_file(place.at("a/f~")).expect("unlink");
    rests(&tree, true, "with a backup for a moment");
    let mut open = File::create(place.at("a/f")).expect("open");
    open.write_all(b"half").expect("write");
    place.write("a/g", "meanwhile");
    rests(&tree, false, "one is still written");
    drop(open);
    rests(&tree, true, "closed");
    place.write("a/f.tmp", "new");
    rests(&tree, false, "a new name");
    fs::rename(place.at("a/f.tmp"), place.at("a/f")).expect("rename");
    rests(&tree, false, "a name that went");
    for file in 0..20 {
        place.write(&format!("a/{file}"), "1");
    }
    check(&tree, &place);
    (0..20).for_each(|file| place.write(&format!("a/{file}"), "2"));
    rests(&tree, false, "a burst");
}

#[test]
fn what_is_left_out_is_neither_known_nor_watched() {
    let place = Place::new();
    place.write("keep/f", "1");
    place.write("build/x/y", "1");
    let tree = place.tree_with(PLENTY, &["build/", "*.o"]);
    assert!(tree.refresh(false, SWEEP).expect("a refresh"));
    let before = tree.tick();
    assert_eq!(counter(&tree, "watches"), 2);
    place.write("build/z", "1");
    fs::write(place.at("keep/x.o"), "1").expect("write");
    fs::write(place.at("keep/.f.0123abcd01234567.sync~"), "1").expect("write");
    assert!(tree.refresh(false, SWEEP).expect("a refresh"));
    assert_eq!(changed(&tree, before), [("keep".to_owned(), false)]);
    place.write("keep/build", "a file");
    assert!(tree.refresh(false, SWEEP).expect("a refresh"));
    assert!(changed(&tree, before).contains(&("keep/build".to_owned(), false)));
    fs::remove_file(place.at("keep/build")).expect("rm");
    fs::create_dir(place.at("keep/build")).expect("mkdir");
    assert!(tree.refresh(false, SWEEP).expect("a refresh"));
    let state = lock(&tree.state);
    let keep = state.index.find(b"keep").expect("keep");
    assert_eq!(
        state
            .index
            .names(keep)
            .map(|(name, _)| name.to_vec())
            .collect::<Vec<_>>(),
        [b"f"]
    );
}

#[test]
fn another_root_is_all_new_and_an_empty_one_is_a_pause() {
    let place = Place::new();
    place.write("a/f", "1");
    let tree = place.tree();
    check(&tree, &place);
    tree.commit([1; 16], [2; 16], tree.tick());
    let paused = |errno| matches!(tree.refresh(false, SWEEP), Err(Trouble::Paused(e, _)) if e == errno);

    fs::rename(place.at(""), place.outside("aside")).expect("rename");
    assert!(paused(libc::ENOENT));
    fs::create_dir(place.at("")).expect("mkdir");
    assert!(paused(0));
    fs::remove_dir(place.at("")).expect("rmdir");
    fs::rename(place.outside("aside"), place.at("")).expect("rename");
    place.write("a/f", "2");
    check(&tree, &place);
    assert_eq!(tree.baselines(&[1; 16]).len(), 1);

    fs::rename(place.at(""), place.outside("aside")).expect("rename");
    place.write("b/g", "1");
    check(&tree, &place);
    assert!(tree.baselines(&[1; 16]).is_empty());
    assert!(tree.notice().contains("another directory"), "{}", tree.notice());
    place.write("b/g", "2");
    check(&tree, &place);
}
