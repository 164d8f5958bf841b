use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::filter::Filter;
use crate::profile::Profile;
use crate::walk::Options;
use crate::walk::tests::{Parts, Place};

/// What is listed of these paths, in order: (directory, names); and the directories to be walked.
fn look(names: &mut Names, place: &Place, paths: &[(&str, bool)]) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    let root = Root::open(place.0.as_os_str().as_bytes()).expect("a root");
    let options = Options {
        filter: Filter::new(&[b"*.o".to_vec(), b"hidden/".to_vec()]).expect("patterns"),
        hashes: false,
        known: None,
    };
    let lens = Lens {
        options: &options,
        profile: &Profile::new(false),
        stop: &AtomicBool::new(false),
    };
    for (path, deep) in paths {
        names.ask(path.as_bytes(), *deep, &lens);
    }
    let sink = Parts::new(usize::MAX);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let starts = names.look(&root, lens, &sink);
    let parts = std::mem::take(&mut *beneath::lock(&sink.parts));
    let groups = parts.iter().map(|(path, flags, errno, names)| {
        assert_eq!((*flags, *errno), (list::FIRST | list::LAST | list::PARTIAL, 0));
        (text(path), names.iter().map(|name| text(name)).collect())
    });
    (groups.collect(), starts.iter().map(|start| text(&start.path)).collect())
}

fn groups(expected: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    expected
        .iter()
        .map(|(path, all)| (path.to_string(), names(all)))
        .collect()
}

#[test]
fn a_name_is_told_of_once_and_after_the_directories_on_the_way() {
    let place = Place::new();
    place.files("a/b", 2);
    place.files("c", 1);
    let mut names = Names::default();
    let (told, walks) = look(
        &mut names,
        &place,
        &[("a/b/file1", false), ("c", true), ("c/file0", false), ("x/y", false)],
    );
    assert_eq!(
        told,
        groups(&[("", &["", "a", "c", "x"]), ("a", &["b"]), ("a/b", &["file1"])])
    );
    assert_eq!(walks, ["c"]);
    let again = [
        ("a/b/file1", false),
        ("a", false),
        ("c", true),
        ("c/new", false),
        ("x/y/z", true),
    ];
    assert_eq!(look(&mut names, &place, &again), (vec![], vec![]));
    let (told, walks) = look(&mut names, &place, &[("a/b/file0", false), ("a", true)]);
    assert_eq!((told, walks), (groups(&[("", &["a"])]), vec!["a".to_owned()]));
    let (told, walks) = look(&mut names, &place, &[("a", false), ("", true), ("c", false)]);
    assert_eq!((told, walks), (vec![], vec![String::new()]));
}

#[test]
fn what_is_excluded_or_ours_is_passed_over() {
    let place = Place::new();
    place.files("hidden/a", 1);
    place.files("d.o", 1);
    fs::write(place.0.join("hidden.o"), b"").expect("a file");
    let ours = ".x.0123456789abcdef.sync~";
    let below = format!("{ours}/file");
    let mut names = Names::default();
    let all = [("hidden/a", true), ("d.o/file0", false), (ours, true), (&below, false)];
    assert_eq!(look(&mut names, &place, &all), (vec![], vec![]));
    // What they are decides.
    let (told, _) = look(&mut names, &place, &[("hidden", true), ("hidden.o", false)]);
    assert_eq!(told, groups(&[("", &[""])]));
    fs::remove_dir_all(place.0.join("hidden")).expect("gone");
    let (told, _) = look(&mut Names::default(), &place, &[("hidden", true)]);
    assert_eq!(told, groups(&[("", &["", "hidden"])]));
}

#[test]
fn no_symlink_is_followed() {
    let place = Place::new();
    place.files("a/b", 1);
    symlink("a", place.0.join("link")).expect("a symlink");
    let mut names = Names::default();
    let (told, walks) = look(&mut names, &place, &[("link/b/file0", false), ("link/b", true)]);
    assert_eq!((told, walks), (groups(&[("", &["", "link"])]), vec![]));
    // A directory that was told of and is a symlink by now.
    look(&mut names, &place, &[("a/b", false)]);
    fs::rename(place.0.join("a"), place.0.join("old")).expect("a rename");
    symlink("old", place.0.join("a")).expect("a symlink");
    assert_eq!(look(&mut names, &place, &[("a/b/file0", false)]), (vec![], vec![]));
    // Nothing is left of what could not be told.
    let (told, _) = look(&mut names, &place, &[("old/b/file0", false)]);
    assert_eq!(told, groups(&[("", &["old"]), ("old", &["b"]), ("old/b", &["file0"])]));
}

#[test]
fn many_names_come_in_several_groups() {
    let place = Place::new();
    place.files("d", 3000);
    let paths: Vec<String> = (0..3000).map(|i| format!("d/file{i}")).collect();
    let asked: Vec<(&str, bool)> = paths.iter().map(|path| (&path[..], false)).collect();
    let (told, _) = look(&mut Names::default(), &place, &asked);
    let sizes: Vec<_> = told.iter().map(|(path, names)| (&path[..], names.len())).collect();
    assert_eq!(sizes, [("", 2), ("d", 1024), ("d", 1024), ("d", 952)]);
}

#[test]
fn deep_paths_cost_their_length() {
    let place = Place::new();
    let deep = ["d"; 3000].join("/");
    let mut names = Names::default();
    let (told, _) = look(&mut names, &place, &[(&deep, false)]);
    assert_eq!(told, groups(&[("", &["", "d"])]));
    assert_eq!(names.remembered(), 3001);
}
