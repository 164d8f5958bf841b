//! What a tree learns from sessions, and what it keeps: on real file systems.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use super::live::{PLENTY, Place, SWEEP, changed, check, counter};
use super::*;
use crate::list::{DIRECTORY, REGULAR};

#[test]
fn expectations_that_are_met_are_no_change() {
    let place = Place::new();
    place.write("a/f", "12345");
    let tree = place.tree();
    check(&tree, &place);
    let expect = |dir: &str, name: &str, path: &str| {
        let meta = place.at(path).metadata().expect("there");
        let expected = Expected {
            kind: if meta.is_dir() { DIRECTORY } else { REGULAR },
            mode: (meta.mode() & 0o7777) as u16,
            size: if meta.is_dir() { 0 } else { meta.size() },
            mtime: (meta.mtime(), meta.mtime_nsec() as u32),
        };
        tree.expect_group(
            dir.as_bytes(),
            None,
            &mut [(name.as_bytes(), expected)].into_iter(),
            Rest::Unsaid,
        );
    };
    place.write("a/g", "written by us");
    place.write("new/deep/h", "written by us");
    expect("", "", "");
    expect("", "a", "a");
    expect("a", "g", "a/g");
    expect("", "new", "new");
    expect("new", "deep", "new/deep");
    expect("new/deep", "h", "new/deep/h");
    let agreed = tree.tick();
    check(&tree, &place);
    assert_eq!(changed(&tree, agreed), []);
    assert_eq!(counter(&tree, "rescans"), 1);
    place.write("new/deep/h", "not by us");
    check(&tree, &place);
    assert_eq!(changed(&tree, agreed), [("new/deep/h".to_owned(), false)]);

    // A write that failed: what was expected is not there.
    let never = Expected {
        kind: REGULAR,
        mode: 0o644,
        size: 7,
        mtime: (1, 0),
    };
    tree.expect_group(b"a", None, &mut [(&b"f"[..], never)].into_iter(), Rest::Unsaid);
    let agreed = tree.tick();
    check(&tree, &place);
    assert_eq!(changed(&tree, agreed), [("a/f".to_owned(), false)]);
}

#[test]
fn somebody_elses_walk_fills_the_tree() {
    let place = Place::new();
    for i in 0..10 {
        place.write(&format!("d{i}/e/f"), "1");
    }
    let tree = Arc::new(place.tree());
    let root = Root::open(place.at("").as_os_str().as_bytes()).expect("a root");
    let whole = || {
        vec![walk::Start {
            path: Vec::new(),
            deep: true,
        }]
    };
    let scan = tree.scan_sink();
    let profile = crate::profile::Profile::new(false);
    let stop = AtomicBool::new(false);
    let walk = walk::Walk::at(whole(), &root, &tree.options, &scan, &profile, &stop);
    std::thread::scope(|scope| walk::join_in(&walk, 2, scope));
    place.write("d3/e/f", "changed meanwhile");
    scan.finish();
    drop(scan);
    assert!(!tree.is_new());
    let before = tree.tick();
    check(&tree, &place);
    assert_eq!(changed(&tree, before), [("d3/e/f".to_owned(), false)]);
    assert_eq!(counter(&tree, "rescans"), 0);
}

#[test]
fn a_wide_directory_is_handed_over_whole_and_before_its_children() {
    let place = Place::new();
    for i in 0..3000 {
        place.write(&format!("wide/f{i}"), "");
    }
    for i in 0..40 {
        place.write(&format!("wide/d{i}/x/f"), "");
    }
    let tree = place.tree();
    check(&tree, &place);
    fs::rename(place.at("wide"), place.at("other")).expect("rename");
    place.write("other/d7/x/f", "1");
    check(&tree, &place);
    for i in 0..1000 {
        fs::remove_file(place.at(&format!("other/f{i}"))).expect("rm");
    }
    check(&tree, &place);
    assert_eq!(counter(&tree, "rescans"), 1);
}

#[test]
fn a_saved_index_is_made_true_by_one_rescan() {
    let place = Place::new();
    place.write("a/f", "1");
    place.write("b/g", "1");
    let saved = place.outside("saved");
    let path = saved.as_os_str().as_bytes();
    let root = place.at("").as_os_str().as_bytes().to_vec();
    let load =
        |filters: &[Vec<u8>]| Tree::new(root.clone(), filters, Some(path), 2, PLENTY, Wake::new(-1)).expect("a tree");
    let tree = load(&[]);
    assert!(tree.is_new() && tree.notice().is_empty());
    check(&tree, &place);
    let before = tree.tick();
    tree.commit([1; 16], [2; 16], before);
    tree.save(path).expect("saved");
    tree.save(path).expect("saved again");
    tree.close();
    assert!(matches!(tree.refresh(false, SWEEP), Err(Trouble::Closed)));
    assert_eq!(saved.metadata().expect("there").mode() & 0o777, 0o600);

    place.write("b/g", "while away");
    fs::remove_dir_all(place.at("a")).expect("rm");
    let tree = load(&[]);
    assert!(!tree.is_new());
    assert_eq!(tree.baselines(&[1; 16]), [([2; 16], before)]);
    check(&tree, &place);
    let news = ["", "a", "b/g"].map(|path| (path.to_owned(), path == "a"));
    assert_eq!(changed(&tree, before), news);
    assert_eq!(counter(&tree, "rescans"), 1);
    place.write("b/g", "and watched again");
    check(&tree, &place);
    assert_eq!(counter(&tree, "rescans"), 1);

    let other = load(&[b"*.o".to_vec()]);
    assert!(
        other.is_new() && other.notice().contains("other filters"),
        "{}",
        other.notice()
    );
    fs::rename(place.at(""), place.outside("aside")).expect("rename");
    fs::create_dir(place.at("")).expect("mkdir");
    let other = load(&[]);
    assert!(
        other.is_new() && other.notice().contains("another directory"),
        "{}",
        other.notice()
    );
    assert!(matches!(other.refresh(false, SWEEP), Err(Trouble::Paused(0, _))));
    place.write("c", "not empty any more");
    check(&other, &place);
    fs::write(&saved, "no index").expect("write");
    let other = load(&[]);
    assert!(
        other.is_new() && other.notice().contains("damaged"),
        "{}",
        other.notice()
    );
    check(&other, &place);
}
