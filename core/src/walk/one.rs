//! One name of a directory, as a walk and a list of looks alike find it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::{Options, join};
use crate::beneath::{self, Meta};
use crate::list;
use crate::profile::{Profile, Stage};
use crate::temp;

/// Read in blocks of this size when hashing.
const HASH_BLOCK: usize = 256 << 10;

/// Content hashes of files as they were when they were read last.
pub trait Hashes: Send + Sync {
    /// The hash of the file `name` of the directory `dir`, if it is still as it was.
    fn cached(&self, dir: &[u8], name: &[u8], meta: &Meta) -> Option<[u8; 32]>;
    /// Its content, which was read whole while it was `meta`, has this hash.
    fn remember(&self, dir: &[u8], name: &[u8], meta: &Meta, hash: [u8; 32]);
}

/// What names are looked at with.
#[derive(Clone, Copy)]
pub struct Lens<'a> {
    /// What is left out, and what is wanted of the rest.
    pub options: &'a Options,
    /// Where the time goes.
    pub profile: &'a Profile,
    /// Ends what takes long.
    pub stop: &'a AtomicBool,
}

/// Memory that is used for name after name.
#[derive(Default)]
pub struct Space {
    path: Vec<u8>,
    block: Vec<u8>,
}

/// What a name stands for.
pub enum Seen {
    /// Nothing.
    Gone,
    /// Something that is excluded, or our own.
    Hidden,
    /// An entry of this type; without more where it could not be looked at.
    There(u8, Option<Meta>),
}

/// What is in an entry.
pub struct Content {
    /// Its type: UNREADABLE when a symlink could not be read.
    pub kind: u8,
    /// A symlink's target.
    pub target: Vec<u8>,
    /// The hash of a regular file, where that is wanted; zero, which equals no content's, when it could not be read: so
    /// it is asked for, and is a problem then.
    pub hash: [u8; 32],
}

impl Content {
    /// Of what has none that is listed.
    pub fn of(kind: u8) -> Self {
        Self {
            kind,
            target: Vec::new(),
            hash: [0; 32],
        }
    }
}

impl Lens<'_> {
    /// Looks at `name` in the directory `fd`, whose path is `dir`.
    pub fn look(&self, fd: &OwnedFd, dir: &[u8], name: &[u8], space: &mut Space) -> Seen {
        if temp::is_private(name) {
            return Seen::Hidden;
        }
        let (kind, meta) = match beneath::stat_at(fd, name) {
            Ok(meta) => (meta.kind, Some(meta)),
            Err(e) if is_gone(&e) => return Seen::Gone,
            Err(_) => (list::UNREADABLE, None),
        };
        if !self.options.filter.is_empty() {
            join(&mut space.path, dir, name);
            if self.options.filter.excludes(&space.path, kind == list::DIRECTORY) {
                return Seen::Hidden;
            }
        }
        Seen::There(kind, meta)
    }

    /// Looks into what `look` found. None: it is gone meanwhile.
    pub fn content(
        &self,
        fd: &OwnedFd,
        dir: &[u8],
        name: &[u8],
        found: (u8, Option<Meta>),
        space: &mut Space,
    ) -> Option<Content> {
        let mut content = Content::of(found.0);
        match found {
            (list::SYMLINK, _) => match beneath::read_link_at(fd, name) {
                Ok(text) if (1..=usize::from(u16::MAX)).contains(&text.len()) => content.target = text,
                Err(e) if is_gone(&e) => return None,
                _ => content.kind = list::UNREADABLE,
            },
            (list::REGULAR, Some(meta)) if self.options.hashes => {
                let hash = || self.hash(fd, dir, name, &meta, &mut space.block);
                content.hash = self.profile.time(Stage::Hash, hash).unwrap_or_default();
            }
            _ => {}
        }
        Some(content)
    }

    fn hash(&self, fd: &OwnedFd, dir: &[u8], name: &[u8], meta: &Meta, block: &mut Vec<u8>) -> io::Result<[u8; 32]> {
        let known = self.options.known.as_deref();
        if let Some(hash) = known.and_then(|known| known.cached(dir, name, meta)) {
            return Ok(hash);
        }
        let (hash, read) = hash_file(fd, name, block, self.stop)?;
        if let Some(known) = known
            && read == Some(*meta)
        {
            known.remember(dir, name, meta, hash);
        }
        Ok(hash)
    }
}

/// No such name, or something on the way to it is no directory.
pub fn is_gone(e: &io::Error) -> bool {
    matches!(Errno::from_io_error(e), Some(Errno::NOENT | Errno::NOTDIR))
}

/// BLAKE3 of the regular file `name` in `dir`, read through `block`, and what it was before and after, if it was the
/// same; fails when `stop` is set meanwhile.
pub fn hash_file(
    dir: impl AsFd,
    name: &[u8],
    block: &mut Vec<u8>,
    stop: &AtomicBool,
) -> io::Result<([u8; 32], Option<Meta>)> {
    let (file, before) = beneath::open_read_at(dir, name)?;
    block.resize(HASH_BLOCK, 0);
    let mut hasher = blake3::Hasher::new();
    loop {
        match rustix::io::read(&file, &mut block[..]) {
            Err(Errno::INTR) => {}
            Ok(0) => break,
            n => {
                hasher.update(&block[..n?]);
            }
        }
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    let after = beneath::stat(&file)?;
    Ok((hasher.finalize().into(), (after == before).then_some(after)))
}
