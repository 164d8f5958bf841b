//! What a sender reads: a directory, or one file.

use std::io;
use std::sync::atomic::AtomicBool;

use rustix::io::Errno;

use crate::beneath::{self, Given, Handles, Meta};
use crate::list::{self, Entry};
use crate::walk;

/// The source: a directory, or one file in one.
pub struct Source {
    /// The root, or the directory that holds the file.
    pub handles: Handles,
    single: Option<Single>,
}

/// The one file of a source that is no directory.
pub struct Single {
    /// As the user named it, and as it is named where a symlink led.
    listed: Vec<u8>,
    real: Vec<u8>,
    meta: Meta,
}

impl Source {
    /// Opens `path`, a directory or a regular file.
    pub fn open(path: &[u8]) -> io::Result<Self> {
        let (root, real) = match beneath::given(path)? {
            Given::Directory(root) => {
                return Ok(Self {
                    handles: Handles::new(root),
                    single: None,
                });
            }
            Given::File(root, real) => (root, real),
            Given::Missing(..) => return Err(Errno::NOENT.into()),
            Given::Other => return Err(Errno::INVAL.into()),
        };
        let (_, meta) = beneath::open_read_at(root.fd(), &real)?;
        let end = path.iter().rposition(|&b| b != b'/').map_or(0, |at| at + 1);
        Ok(Self {
            handles: Handles::new(root),
            single: Some(Single {
                listed: beneath::split(&path[..end]).1.to_vec(),
                real,
                meta,
            }),
        })
    }

    /// What a listed name is called on disk.
    pub fn name_of<'a>(&'a self, listed: &'a [u8]) -> &'a [u8] {
        self.single.as_ref().map_or(listed, |single| &single.real)
    }

    /// The source is this one file.
    pub fn single(&self) -> Option<&Single> {
        self.single.as_ref()
    }
}

impl Single {
    /// Its entry, with a content hash when that is asked for.
    pub fn entry(&self, source: &Source, hashed: bool, stop: &AtomicBool) -> Entry<'_> {
        let hash = if hashed {
            walk::hash_file(source.handles.root().fd(), &self.real, &mut Vec::new(), stop)
                .map_or([0; 32], |(hash, _)| hash)
        } else {
            [0; 32]
        };
        Entry {
            kind: list::REGULAR,
            mode: self.meta.mode,
            size: self.meta.size,
            mtime_s: self.meta.mtime_s,
            mtime_ns: self.meta.mtime_ns,
            uid: self.meta.uid,
            gid: self.meta.gid,
            name: &self.listed,
            target: b"",
            hash,
        }
    }
}
