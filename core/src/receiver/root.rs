//! Chunk 0: what the source is, and the destination that corresponds to it.

use std::io;

use super::Before;
use super::compare::{Generator, Step, Stop};
use super::threads::UNCONFINED;
use crate::beneath::{self, Handles, Root};
use crate::list::{self, Chunk, DIRECTORY, REGULAR};
use crate::temp::TRASH;
use crate::tree::root::granule;

impl Generator<'_> {
    /// Chunk 0 says what the source is: finds or makes the root that corresponds to it.
    pub(super) fn begin(&self, chunk: &Chunk) -> Step<()> {
        let shared = self.shared;
        let single = chunk.flags() & list::SINGLE != 0;
        let Some(group) = chunk
            .groups()
            .first()
            .filter(|g| g.entries > 0 && chunk.path(g).is_empty())
        else {
            return self.violation("a file list that does not begin with its root");
        };
        let first = chunk.entry(group.start);
        let fits = if single {
            chunk.entries() == 1 && first.kind == REGULAR && !first.name.is_empty()
        } else {
            first.kind == DIRECTORY && first.name.is_empty()
        };
        if !fits {
            return self.violation("a root of the wrong kind");
        }
        let made = self.root(single);
        match made {
            Ok(handles) => {
                let held = handles.as_ref().map_or(Ok(()), |h| shared.hold_to(h.root()));
                if let Err(e) = held {
                    shared.fail("internal", &shared.root_path, e.raw_os_error().unwrap_or(0), UNCONFINED);
                    return Err(Stop);
                }
                if !shared.enter() {
                    return Err(Stop);
                }
                if let (Some(trash), Some(handles)) = (&shared.trash, &handles)
                    && let Err(e) = trash.check(shared, handles.root())
                {
                    let path = beneath::join(&shared.root_path, TRASH);
                    let errno = e.raw_os_error().unwrap_or(0);
                    shared.fail("destination-unwritable", &path, errno, "opening");
                    return Err(Stop);
                }
                let _ = shared.granule.set(handles.as_ref().map_or(1, |h| granule(h.root())));
                if let Some(handles) = handles.as_ref().filter(|_| !shared.options.dry_run) {
                    shared.durable.begin(shared.options.fsync, handles.root().fd());
                }
                let _ = shared.handles.set(handles);
                if matches!(shared.before, Before::Missing(..)) {
                    shared.restructured(b"");
                }
                Ok(())
            }
            Err((code, e)) => {
                let errno = e.raw_os_error().unwrap_or(0);
                let (errno, what) = match (code, errno) {
                    ("destination-type", libc::EISDIR) => (0, "the source is one file, the destination a directory:"),
                    ("destination-type", _) => (0, "the source is a directory, the destination a file:"),
                    _ => (errno, "opening the destination"),
                };
                shared.fail(code, &shared.root_path, errno, what);
                Err(Stop)
            }
        }
    }

    fn root(&self, single: bool) -> Result<Option<Handles>, (&'static str, io::Error)> {
        let shared = self.shared;
        let kind_error = |errno| ("destination-type", io::Error::from_raw_os_error(errno));
        let open_error = |e: io::Error| {
            let code = match e.raw_os_error() {
                Some(libc::EROFS) => "destination-read-only",
                Some(libc::ENOSPC | libc::EDQUOT) => "destination-full",
                _ => "destination-unwritable",
            };
            (code, e)
        };
        match &shared.before {
            Before::Directory(..) if single => Err(kind_error(libc::EISDIR)),
            Before::File(..) if !single => Err(kind_error(libc::ENOTDIR)),
            Before::Missing(parent, name) | Before::File(parent, name) if single => {
                let _ = shared.single.set(name.clone());
                Ok(Some(Handles::new(parent.try_clone().map_err(open_error)?)))
            }
            Before::Missing(..) if shared.options.dry_run => Ok(None),
            Before::Missing(parent, name) => {
                beneath::mkdir_at(parent.fd(), name).map_err(open_error)?;
                let root = beneath::open_dir_at(parent.fd(), name).map_err(open_error)?;
                Ok(Some(Handles::new(Root::from_fd(root))))
            }
            Before::Directory(root, _) => Ok(Some(Handles::new(root.try_clone().map_err(open_error)?))),
            Before::File(..) => Err(kind_error(libc::ENOTDIR)),
        }
    }
}
