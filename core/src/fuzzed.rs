//! What fuzzers drive: everything of the crate that takes a peer's or a damaged disk's bytes and no file system.
//!
//! A target takes any bytes and panics where something that is promised does not hold. `core/fuzz` runs them under
//! libFuzzer; the test below runs what was found and the seeds, kept in `fuzz/corpus`.

use crate::compress;
use crate::delta::{self, Matcher};
use crate::filter::{Filter, PATTERN_MAX};
use crate::list::{self, Chunk};
use crate::receiver;
use crate::record::{self, Record};
use crate::signature::{self, Kind, SignatureBuilder};
use crate::tree::index::Index;
use crate::tree::looks;

/// A name, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("list", list_chunk),
    ("looks", looks_payload),
    ("basis", basis_payloads),
    ("data", data_records),
    ("packed", packed_payload),
    ("index", saved_index),
    ("filter", filter_patterns),
    ("problems", problems_payload),
];

/// A LIST payload: what was checked once can be used without another look.
fn list_chunk(data: &[u8]) {
    let Ok(chunk) = Chunk::parse_untrusted(data.to_vec()) else {
        return;
    };
    let mut entries = 0;
    for group in chunk.groups() {
        assert_plain(chunk.path(group));
        for i in group.start..group.start + group.entries {
            let entry = chunk.entry(i);
            let root = i == 0 && chunk.path(group).is_empty() && entry.name.is_empty();
            assert!(root || list::is_component(entry.name));
            assert!(entry.mode <= 0o7777 && entry.mtime_ns < 1_000_000_000 && i64::try_from(entry.size).is_ok());
            assert!(!entry.target.contains(&0));
            assert_eq!(chunk.group_of(i).start, group.start);
            assert!(chunk.link_of(i).is_none() || matches!(entry.kind, list::REGULAR | list::SYMLINK));
            assert!(chunk.remembered_of(i).is_none() || entry.kind == list::REGULAR);
            entries += 1;
        }
    }
    assert_eq!(entries, chunk.entries());
}

fn looks_payload(data: &[u8]) {
    let Ok(found) = looks::each_untrusted(data) else {
        return;
    };
    let mut again = Vec::new();
    for look in found {
        assert_plain(look.path);
        looks::push(&mut again, look.path, look.deep);
    }
    assert_eq!(again, data);
}

/// BASIS payloads, each behind its length as u16: pieces, or parts of a signature, whose matcher then makes a delta.
fn basis_payloads(data: &[u8]) {
    let mut parts = SignatureBuilder::new();
    let mut rest = data;
    while let Some((len, tail)) = rest.split_first_chunk() {
        let (payload, tail) = tail.split_at(usize::from(u16::from_le_bytes(*len)).min(tail.len()));
        rest = tail;
        match signature::peek_untrusted(payload) {
            Ok((_, _, Kind::Pieces | Kind::PiecesFirst)) => {
                if let Ok(pieces) = signature::pieces_untrusted(payload, 100) {
                    assert!(pieces.iter().all(|&(piece, _)| piece < 100));
                }
            }
            Ok((_, _, Kind::Signature)) => match parts.part_untrusted(payload) {
                Ok(false) => {}
                Ok(true) => return delta_against(std::mem::take(&mut parts)),
                Err(_) => return,
            },
            _ => return,
        }
    }
}

/// A delta against a peer's signature copies from within its basis, and makes as many bytes as it is of.
fn delta_against(parts: SignatureBuilder) {
    let window: Vec<u8> = (0..20_000u32).map(|n| ((n * n) >> 9) as u8).collect();
    let mut matcher = Matcher::new(parts.into_signature());
    let basis_size = matcher.signature().basis_size;
    let mut tokens = Vec::new();
    matcher.piece(&window, 0, &[], &[], &mut tokens);
    let mut made = vec![0; window.len()];
    let applied = delta::apply_untrusted(&tokens, basis_size, |_, _| Ok(()), &mut made, &mut Vec::new());
    assert!(applied.is_ok());
}

/// A DATA payload, its deltas applied to a basis.
fn data_records(data: &[u8]) {
    let basis = [7u8; 4 << 10];
    let whole = receiver::last_chunk_untrusted(data).is_ok();
    let mut at = 0;
    while at < data.len() {
        let Ok((record, next)) = Record::parse_untrusted(data, at) else {
            return;
        };
        assert!(next > at && next <= data.len());
        let content = &data[at + record::HEADER..next];
        at = next;
        if record.encoding == record::DELTA {
            let mut made = vec![0; record.size.min(64 << 10) as usize];
            let mut holes = Vec::new();
            let read = |offset: u64, to: &mut [u8]| {
                to.copy_from_slice(&basis[offset as usize..][..to.len()]);
                Ok(())
            };
            if delta::apply_untrusted(content, basis.len() as u64, read, &mut made, &mut holes).is_ok() {
                assert!(holes.windows(2).all(|pair| pair[0].end <= pair[1].start));
                assert!(
                    holes
                        .iter()
                        .all(|hole| made[hole.clone()].iter().all(|&byte| byte == 0))
                );
            }
        }
    }
    assert!(whole || data.is_empty() || data.starts_with(&[0, 0]));
}

fn packed_payload(data: &[u8]) {
    if let Ok(Some(header)) = compress::header_untrusted(data)
        && let Ok(raw) = compress::unpack_untrusted(data, &header)
    {
        assert!(!raw.is_empty() && raw.len() <= 2 << 20);
    }
}

/// A saved index whose sum fits, which no accident does to it.
fn saved_index(data: &[u8]) {
    let whole = [data, blake3::hash(data).as_bytes()].concat();
    let Ok((index, identity)) = Index::load(&whole) else {
        return;
    };
    let mut again = Vec::new();
    index.save(&mut again, identity).expect("to memory");
    let (same, _) = Index::load(&again).expect("what was saved is loaded");
    assert_eq!(
        (same.entries(), same.dirs(), same.tick()),
        (index.entries(), index.dirs(), index.tick())
    );
    for dir in 0..index.dirs() as u32 {
        assert_plain(&index.path(dir).unwrap_or_default());
        assert!(index.names(dir).all(|(name, _)| list::is_component(name)));
    }
}

/// Patterns, a line each, against the last line as a path.
fn filter_patterns(data: &[u8]) {
    let mut lines: Vec<Vec<u8>> = data.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    let path = lines.pop().unwrap_or_default();
    if let Ok(filter) = Filter::new(&lines) {
        assert!(lines.iter().all(|line| line.len() <= PATTERN_MAX + 2));
        for is_dir in [false, true] {
            let excluded = filter.excludes(&path, is_dir);
            assert!(!(excluded && (path.is_empty() || filter.is_empty())));
        }
    }
}

fn problems_payload(data: &[u8]) {
    let Ok(found) = receiver::unpack_problems_untrusted(data) else {
        return;
    };
    let length: usize = found.iter().map(|(path, _, _)| 12 + path.len()).sum();
    assert_eq!(length, data.len());
}

/// A path that leads nowhere but down.
fn assert_plain(path: &[u8]) {
    assert!(path.len() <= list::PATH_MAX);
    assert!(path.is_empty() || path.split(|&byte| byte == b'/').all(list::is_component));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_target_has_a_corpus_that_it_survives() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for &(name, run) in TARGETS {
            let mut inputs = 0;
            for input in std::fs::read_dir(corpus.join(name)).expect("a directory of the target's") {
                run(&std::fs::read(input.expect("an entry").path()).expect("a file"));
                inputs += 1;
            }
            assert!(inputs > 0, "{name}");
        }
    }
}
