use super::looks::each_untrusted;
use super::*;
use crate::list::{DIRECTORY, REGULAR};

fn file(ino: u64, size: u64) -> Stat {
    Stat {
        kind: REGULAR,
        mode: 0o644,
        size,
        mtime: (100, 5),
        ctime: (200, ino as u32),
        ino,
        linked: false,
        uid: 1,
        gid: 2,
    }
}

fn directory(ino: u64) -> Stat {
    Stat {
        kind: DIRECTORY,
        mode: 0o755,
        size: 0,
        ..file(ino, 0)
    }
}

fn expected(stat: &Stat) -> Expected {
    Expected {
        kind: stat.kind,
        mode: stat.mode,
        size: stat.size,
        mtime: stat.mtime,
    }
}

/// The looks, sorted: path, deep.
fn looks(index: &Index, since: u64) -> Vec<(String, bool)> {
    let payload = index.changes(since, 1 << 20).expect("few changes");
    let looks = each_untrusted(&payload).expect("our own looks");
    let mut all: Vec<_> = looks
        .iter()
        .map(|l| (String::from_utf8_lossy(l.path).into_owned(), l.deep))
        .collect();
    all.sort();
    all
}

fn list(index: &mut Index, path: &str, entries: &[(&str, Stat)]) -> Listed {
    let id = index.find(path.as_bytes()).expect("a known directory");
    let mut entries = entries
        .iter()
        .map(|(name, stat)| (Box::from(name.as_bytes()), *stat))
        .collect();
    index.listed(id, &mut entries, 1)
}

fn known() -> Index {
    let mut index = Index::new();
    index.root_stat(directory(1), 1);
    list(&mut index, "", &[("f", file(2, 7)), ("d", directory(3))]);
    list(&mut index, "d", &[("g", file(4, 7)), ("e", directory(5))]);
    list(&mut index, "d/e", &[("h", file(6, 7))]);
    index
}

fn some(paths: &[(&str, bool)]) -> Vec<(String, bool)> {
    paths.iter().map(|(path, deep)| (path.to_string(), *deep)).collect()
}

#[test]
fn a_first_filling_is_one_deep_look_at_the_root_and_takes_no_tick() {
    assert_eq!(looks(&Index::new(), 0), some(&[("", true)]));
    let index = known();
    assert_eq!(looks(&index, 0), some(&[("", true)]));
    assert_eq!((index.tick(), index.entries(), index.dirs()), (1, 5, 3));
    assert_eq!(looks(&index, 1), []);
    let id = index.find(b"d/e").expect("listed");
    assert_eq!(index.path(id), Some(b"d/e".to_vec()));
    assert_eq!(index.get(id, b"h"), Some(file(6, 7)));
    assert_eq!(index.find(b"d/g"), None);
}

#[test]
fn looks_find_what_changed() {
    let mut index = known();
    let since = index.tick();
    let e = index.find(b"d/e").expect("listed");
    assert_eq!(index.look(e, b"h", Some(file(6, 7)), 1), Seen::Same);
    assert_eq!(index.look(e, b"h", Some(file(6, 8)), 1), Seen::Changed);
    assert_eq!(index.look(e, b"i", Some(file(7, 8)), 1), Seen::Changed);
    assert_eq!(index.look(e, b"never", None, 1), Seen::Same);
    assert_eq!(index.look(Index::ROOT, b"f", None, 1), Seen::Gone(vec![]));
    let after = some(&[("d/e/h", false), ("d/e/i", false), ("f", false)]);
    assert_eq!(looks(&index, since), after);
    assert!(index.changed_since(b"f", since) && index.changed_since(b"d/e/h", since));
    assert!(!index.changed_since(b"d/g", since) && !index.changed_since(b"d", since));
    assert_eq!(index.changes(since, 10), None);
    let Seen::NewDir(n) = index.look(Index::ROOT, b"n", Some(directory(9)), 1) else {
        panic!("a directory that is new");
    };
    let tick = index.tick();
    assert_eq!(
        list(&mut index, "n", &[("x", file(10, 1)), ("m", directory(11))])
            .new
            .len(),
        1
    );
    assert_eq!(looks(&index, tick), []);
    assert_eq!(looks(&index, tick - 1), some(&[("n", true)]));
    assert!(index.is_read(n) && index.changed_since(b"n/x", since));
    index.root_stat(
        Stat {
            mtime: (9, 9),
            ..directory(1)
        },
        1,
    );
    assert_eq!(looks(&index, tick), some(&[("", false)]));
}

#[test]
fn a_directory_that_goes_or_is_replaced_takes_what_was_in_it_along() {
    let mut index = known();
    let since = index.tick();
    let (d, e) = (index.find(b"d").expect("known"), index.find(b"d/e").expect("known"));
    let Seen::Replaced { gone, new: Some(new) } = index.look(Index::ROOT, b"d", Some(directory(33)), 1) else {
        panic!("another directory");
    };
    assert_eq!((gone, index.path(e), index.is_read(new)), (vec![d, e], None, false));
    assert_eq!(looks(&index, since), some(&[("d", true)]));
    assert_eq!(index.look(e, b"h", Some(file(6, 9)), 1), Seen::Same);
    assert_ne!(new, d);
    let replaced = index.look(Index::ROOT, b"d", Some(file(34, 1)), 1);
    assert_eq!(
        replaced,
        Seen::Replaced {
            gone: vec![new],
            new: None
        }
    );
    assert_eq!(looks(&index, since), some(&[("d", true)]));
    index.recycle();
    assert!(matches!(
        index.look(Index::ROOT, b"d", Some(directory(35)), 1),
        Seen::NewDir(_)
    ));
    let d = index.find(b"d").expect("a directory again");
    assert_eq!(index.look(Index::ROOT, b"d", None, 1), Seen::Gone(vec![d]));
    assert_eq!(looks(&index, since), some(&[("d", true)]));
    assert_eq!((index.entries(), index.dirs()), (1, 1));
}

#[test]
fn what_is_as_expected_is_news_to_others_only() {
    let mut index = known();
    let since = index.tick();
    let (f, new) = (file(0, 9), directory(0));
    let entries: [(&[u8], Expected); 2] = [(b"f", expected(&f)), (b"n", expected(&new))];
    index.expect(b"", &mut entries.into_iter(), Rest::Unsaid, 1);
    index.expect(b"n", &mut [(&b"x"[..], expected(&f))].into_iter(), Rest::Gone, 1);
    let agreed = index.tick();
    assert_eq!(looks(&index, since), some(&[("f", false), ("n", true)]));
    let n = index.find(b"n").expect("expected");
    assert_eq!(index.take_unverified(), [Index::ROOT, n]);
    assert!(index.take_unverified().is_empty());
    assert_eq!(
        index.unverified(Index::ROOT),
        [Box::from(&b"f"[..]), Box::from(&b"n"[..])]
    );
    assert_eq!(index.look(Index::ROOT, b"f", Some(file(20, 9)), 1), Seen::Same);
    assert_eq!(index.look(Index::ROOT, b"n", Some(directory(21)), 1), Seen::Same);
    assert_eq!(looks(&index, agreed), []);
    list(&mut index, "n", &[("x", file(22, 8)), ("stranger", file(23, 1))]);
    assert_eq!(looks(&index, agreed), some(&[("n/stranger", false), ("n/x", false)]));
    let agreed = index.tick();
    index.expect_gone(b"d");
    assert_eq!(looks(&index, agreed), some(&[("d", true)]));
    let agreed = index.tick();
    assert!(matches!(
        index.look(Index::ROOT, b"d", Some(directory(3)), 1),
        Seen::NewDir(_)
    ));
    assert_eq!(looks(&index, agreed), some(&[("d", true)]));
}

#[test]
fn what_is_distrusted_is_a_look_until_it_is_expected() {
    let mut index = known();
    let now = index.tick();
    index.distrust(b"d/e", true);
    index.distrust(b"d/e/h", false);
    index.distrust(b"f", false);
    assert_eq!(looks(&index, now), some(&[("d/e", true), ("f", false)]));
    let f = expected(&file(2, 7));
    index.expect(b"", &mut [(&b"f"[..], f)].into_iter(), Rest::Unsaid, 1);
    assert_eq!(looks(&index, now), some(&[("d/e", true)]));
    let d = index.find(b"d").expect("known");
    index.look(d, b"e", None, 1);
    assert_eq!(looks(&index, now), some(&[("d/e", true)]));
    assert_eq!(looks(&index, index.tick()), []);
    for n in 0..10_001 {
        index.distrust(format!("d/{n}").as_bytes(), false);
    }
    assert_eq!(looks(&index, index.tick()), some(&[("d", true)]));
}

#[test]
fn too_many_tombstones_are_one_deep_look() {
    let mut index = known();
    let many: Vec<_> = (0..1100).map(|n| (format!("{n}"), file(1000 + n, 1))).collect();
    let many: Vec<_> = many.iter().map(|(name, stat)| (&name[..], *stat)).collect();
    list(&mut index, "d/e", &many);
    let since = index.tick();
    list(&mut index, "d/e", &many[..200]);
    assert_eq!(looks(&index, since).len(), 900);
    list(&mut index, "d/e", &[]);
    assert_eq!(looks(&index, since), some(&[("d/e", true)]));
    assert_eq!(looks(&index, index.tick()), []);
    assert!(index.changed_since(b"d/e/7", since));
}

#[test]
fn names_are_found_among_many() {
    let mut index = known();
    let e = index.find(b"d/e").expect("known");
    for n in 0..500u64 {
        let name = format!("{:03}", n * 7 % 500);
        assert_eq!(index.look(e, name.as_bytes(), Some(file(n + 10, n)), 1), Seen::Changed);
    }
    assert!(index.names(e).map(|e| e.0.to_vec()).is_sorted());
    assert_eq!(index.names(e).count(), 501);
    assert_eq!(index.get(e, b"007"), Some(file(11, 1)));
}

fn saved(index: &Index) -> Vec<u8> {
    let mut out = Vec::new();
    index.save(&mut out, b"root").expect("memory takes all");
    out
}

#[test]
fn what_is_saved_holds_hashes_baselines_and_doubts() {
    let mut index = known();
    index.set_hash(b"d/e", b"h", &file(6, 7), [9; 32]);
    index.commit([1; 16], [2; 16], 1);
    index.distrust(b"d/x", true);
    index.expect_gone(b"f");
    let bytes = saved(&index);
    let (mut again, identity) = Index::load(&bytes).expect("what was saved");
    assert_eq!(identity, b"root");
    assert_eq!(again.hash(b"d/e", b"h", &file(6, 7)), Some([9; 32]));
    assert_eq!(again.hash(b"d/e", b"h", &file(6, 8)), None);
    assert_eq!(again.baselines(&[1; 16]), [([2; 16], 1)]);
    assert_eq!(looks(&again, 1), some(&[("d/x", true), ("f", false)]));
    assert_eq!(again.take_unverified(), [Index::ROOT]);
    assert_eq!(saved(&again), bytes);
    again.drop_baselines();
    assert!(again.baselines(&[1; 16]).is_empty());
}

#[test]
fn damage_is_told_and_never_believed() {
    let mut index = known();
    index.set_hash(b"d/e", b"h", &file(6, 7), [9; 32]);
    index.commit([1; 16], [2; 16], 1);
    index.distrust(b"d/x", true);
    let bytes = saved(&index);
    for cut in 0..bytes.len() {
        assert!(Index::load(&bytes[..cut]).is_err());
    }
    let mut newer = bytes.clone();
    newer[8] += 1;
    assert_eq!(Index::load(&newer).err(), Some(LoadError::Layout(2)));
    let body = bytes.len() - 32;
    for at in 0..body {
        for bit in 0..8 {
            let mut odd = bytes.clone();
            odd[at] ^= 1 << bit;
            assert!(Index::load(&odd).is_err(), "byte {at}, bit {bit}");
            // With a sum that fits, as nothing but an enemy in the state directory writes it: whatever is taken for
            // an index can be used.
            let sum = blake3::hash(&odd[..body]);
            odd[body..].copy_from_slice(sum.as_bytes());
            if let Ok((mut index, _)) = Index::load(&odd) {
                each_untrusted(&index.changes(0, 1 << 20).expect("few")).expect("plain looks");
                list(&mut index, "", &[("f", file(2, 8))]);
                assert_eq!((index.entries(), index.dirs()), (1, 1));
                Index::load(&saved(&index)).expect("what was saved");
            }
        }
    }
}

#[test]
fn an_entry_takes_about_eighty_bytes() {
    let mut index = Index::new();
    let (dirs, files) = (1000, 100);
    let names: Vec<_> = (0..dirs).map(|n| format!("module{n:04}")).collect();
    let all: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (&name[..], directory(n as u64 + 1)))
        .collect();
    list(&mut index, "", &all);
    let names: Vec<_> = (0..files).map(|n| format!("source_{n:04}.c")).collect();
    let all: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (&name[..], file(n as u64 + 1, 1)))
        .collect();
    for n in 0..dirs {
        list(&mut index, &format!("module{n:04}"), &all);
    }
    let per = index.bytes() / index.entries();
    assert!((64..84).contains(&per), "{per} bytes an entry");
    let bytes = saved(&index);
    let (again, _) = Index::load(&bytes).expect("what was saved");
    assert!(again.bytes() / again.entries() <= per);
}

#[test]
fn what_is_found_beyond_a_list_that_deletes_is_news_in_a_directory_that_was_never_read() {
    let known = file(3, 1);
    let made = expected(&directory(2));
    for (rest, news) in [(Rest::Unsaid, 0), (Rest::Told, 3), (Rest::Gone, 3)] {
        let mut index = Index::new();
        index.expect(b"", &mut [(&b"d"[..], made), (&b"e"[..], made)].into_iter(), rest, 1);
        index.expect(b"d", &mut [(&b"f"[..], expected(&known))].into_iter(), rest, 1);
        let agreed = index.tick();
        for (dir, inode) in [(&b""[..], 0), (b"d", 2), (b"e", 4)] {
            let id = index.find(dir).expect("expected");
            let mut found = vec![(Box::from(&b"extra"[..]), file(9 + inode, 1))];
            match dir {
                b"" => {
                    found.push((Box::from(&b"d"[..]), directory(2)));
                    found.push((Box::from(&b"e"[..]), directory(4)));
                }
                b"d" => found.push((Box::from(&b"f"[..]), known)),
                _ => {}
            }
            index.listed(id, &mut found, 1);
        }
        let looks = index.changes(agreed, 1 << 20).expect("few changes");
        let names = each_untrusted(&looks).expect("our own looks");
        let extra = names.iter().filter(|look| look.path.ends_with(b"extra")).count();
        assert_eq!(extra, news, "{rest:?}");
    }
}
