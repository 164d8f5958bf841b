use super::*;

fn entry<'a>(name: &'a [u8], kind: u8, target: &'a [u8]) -> Entry<'a> {
    Entry {
        kind,
        mode: 0o644,
        size: if kind == REGULAR { 7 } else { 0 },
        mtime_s: -5,
        mtime_ns: 999_999_999,
        uid: 1,
        gid: 2,
        name,
        target,
        hash: [3; 32],
    }
}

fn sample(flags: u16) -> Vec<u8> {
    let mut builder = Builder::new(flags);
    builder.begin_group(b"", FIRST, 0);
    builder.push(&entry(b"", DIRECTORY, b""));
    builder.push(&entry(b"sub", DIRECTORY, b""));
    builder.push(&entry(b"l", SYMLINK, b"../x"));
    builder.amend_group(LAST, 0);
    builder.begin_group(b"sub", FIRST | LAST, 0);
    builder.push(&entry(b"caf\xe9", REGULAR, b""));
    let expected = builder.len();
    let out = builder.finish();
    assert_eq!(out.len(), expected);
    assert!(builder.is_empty());
    out
}

#[test]
fn a_chunk_comes_back_as_it_was_built() {
    for flags in [0, OWNERS, HASHES, OWNERS | HASHES] {
        let chunk = Chunk::parse_untrusted(sample(flags)).expect("valid");
        assert_eq!(chunk.entries(), 4);
        assert_eq!(chunk.path(&chunk.groups()[1]), b"sub");
        assert_eq!(chunk.groups()[0].flags, FIRST | LAST);
        let mut last = entry(b"caf\xe9", REGULAR, b"");
        if flags & OWNERS == 0 {
            (last.uid, last.gid) = (0, 0);
        }
        if flags & HASHES == 0 {
            last.hash = [0; 32];
        }
        assert_eq!(chunk.entry(3), last);
        assert_eq!(chunk.entry(2).target, b"../x");
        assert_eq!(chunk.group_of(2).entries, 3);
        assert_eq!(chunk.group_of(3).start, 3);
    }
}

#[test]
fn every_truncation_is_refused() {
    let whole = sample(OWNERS);
    for len in 0..whole.len() {
        assert!(Chunk::parse_untrusted(whole[..len].to_vec()).is_err(), "{len}");
    }
}

#[test]
fn no_flipped_byte_panics() {
    let whole = sample(HASHES);
    for at in 0..whole.len() {
        for flip in [1u8, 0x80, 0xff] {
            let mut data = whole.clone();
            data[at] ^= flip;
            let _ = Chunk::parse_untrusted(data);
        }
    }
}

#[test]
fn hostile_names_are_refused() {
    for name in [&b".."[..], b".", b"", b"a/b", b"a\0b", &[b'x'; 256]] {
        let mut builder = Builder::new(0);
        builder.begin_group(b"d", FIRST | LAST, 0);
        builder.push(&entry(name, REGULAR, b""));
        assert!(Chunk::parse_untrusted(builder.finish()).is_err(), "{name:?}");
    }
    for path in [&b"/etc"[..], b"a//b", b"a/", b"..", b"a/../b", b"a/."] {
        let mut builder = Builder::new(0);
        builder.begin_group(path, FIRST | LAST, 0);
        assert!(Chunk::parse_untrusted(builder.finish()).is_err(), "{path:?}");
    }
}

#[test]
fn what_was_moved_says_where_it_was() {
    let build = |entry: Entry<'_>| {
        let mut builder = Builder::new(0);
        builder.begin_group(b"d", FIRST | LAST, 0);
        builder.push(&entry);
        (builder.finish(), builder.finish())
    };
    for kind in [REGULAR, DIRECTORY] {
        let (with, next) = build(entry(b"x", kind, b"a/b"));
        assert_eq!((u16_at(&with, 2), u16_at(&next, 2)), (ORIGINS, 0));
        assert_eq!(
            Chunk::parse_untrusted(with.clone()).expect("valid").entry(0).target,
            b"a/b"
        );
        let mut without = with;
        without[2] = 0;
        assert!(Chunk::parse_untrusted(without).is_err());
    }
    for path in [&b"/a"[..], b"a/", b"a//b", b"..", b"a/../b", b"a\0", &[b'x'; 256]] {
        assert!(
            Chunk::parse_untrusted(build(entry(b"x", REGULAR, path)).0).is_err(),
            "{path:?}"
        );
    }
    for kind in [OTHER, UNREADABLE, GONE] {
        assert!(
            Chunk::parse_untrusted(build(entry(b"x", kind, b"a")).0).is_err(),
            "{kind}"
        );
    }
}

/// What becomes of a group with these flags and this one entry.
fn alone(flags: u8, errno: i32, entry: Entry<'_>) -> Result<Chunk, &'static str> {
    let mut builder = Builder::new(0);
    builder.begin_group(b"d", flags, errno);
    builder.push(&entry);
    Chunk::parse_untrusted(builder.finish())
}

#[test]
fn a_partial_group_is_whole_and_alone_tells_what_is_gone() {
    const WHOLE: u8 = FIRST | LAST;
    let gone = Entry {
        mode: 0,
        mtime_s: 0,
        mtime_ns: 0,
        ..entry(b"x", GONE, b"")
    };
    let deep = Entry {
        size: 1,
        ..entry(b"x", DIRECTORY, b"")
    };
    assert!(alone(WHOLE | PARTIAL, 0, gone).is_ok());
    assert!(alone(WHOLE | PARTIAL, 0, deep).is_ok());
    for flags in [PARTIAL, FIRST | PARTIAL, LAST | PARTIAL, WHOLE | INCOMPLETE | PARTIAL] {
        assert!(alone(flags, 0, deep).is_err(), "{flags}");
    }
    assert!(alone(WHOLE | PARTIAL, 5, deep).is_err());
    assert!(alone(WHOLE, 0, gone).is_err());
    assert!(alone(WHOLE, 0, deep).is_err());
    assert!(alone(WHOLE | PARTIAL, 0, Entry { size: 2, ..deep }).is_err());
    for known in [
        Entry { mode: 1, ..gone },
        Entry { size: 1, ..gone },
        Entry { mtime_s: 1, ..gone },
        Entry { mtime_ns: 1, ..gone },
        Entry { target: b"t", ..gone },
        Entry { kind: GONE + 1, ..gone },
    ] {
        assert!(alone(WHOLE | PARTIAL, 0, known).is_err(), "{known:?}");
    }
}

#[test]
fn what_is_remembered_comes_back_beside_links_and_only_in_its_chunk() {
    let stamp = |n: u64| Stamp {
        size: n << 40,
        mtime_s: -(n as i64),
        mtime_ns: 999_999_990 + n as u32,
    };
    let mut builder = Builder::new(0);
    for linked in [false, true] {
        builder.begin_group(b"d", FIRST | LAST, 0);
        for n in 0..5 {
            builder.push(&entry(&[b'a' + n], REGULAR, b""));
            if n % 2 == 1 {
                builder.remember(stamp(n.into()));
            }
            if linked && n > 2 {
                builder.link(7);
            }
        }
        let expected = builder.len();
        let payload = builder.finish();
        assert_eq!(payload.len(), expected);
        // But for the last of several links, whose number is not said.
        for len in (0..payload.len()).filter(|len| *len + 8 != payload.len() || !linked) {
            assert!(Chunk::parse_untrusted(payload[..len].to_vec()).is_err(), "{len}");
        }
        let chunk = Chunk::parse_untrusted(payload).expect("valid");
        for n in 0..5 {
            assert_eq!(chunk.remembered_of(n), (n % 2 == 1).then(|| stamp(n.into())));
        }
        assert_eq!(chunk.links().len(), if linked { 2 } else { 0 });
    }
    builder.begin_group(b"d", FIRST | LAST, 0);
    let chunk = Chunk::parse_untrusted(builder.finish()).expect("valid");
    assert_eq!(chunk.flags(), 0);
}

#[test]
fn only_single_names_come_unasked() {
    let made = |flags: u8, link: Option<u32>| {
        let mut builder = Builder::new(AHEAD);
        builder.begin_group(b"sub", flags, 0);
        builder.push(&entry(b"f", REGULAR, b""));
        if let Some(group) = link {
            builder.link(group);
        }
        Chunk::parse_untrusted(builder.finish())
    };
    assert!(made(FIRST | LAST | PARTIAL, None).is_ok_and(|chunk| chunk.is_ahead()));
    assert!(made(FIRST | LAST, None).is_err());
    assert!(made(FIRST | LAST | PARTIAL, Some(0)).is_err());
}
