//! An index in a file, under an identity: root and filters.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::beneath::{Root, lock};
use crate::failpoint::{self, Point};

use super::Tree;
use super::index::Index;
use super::root::{self, IDENTITY};
use super::state::State;

/// What is left out, in one number: another set of filters is another tree.
pub fn filters_hash(filters: &[Vec<u8>]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for filter in filters {
        hasher.update(&(filter.len() as u64).to_le_bytes());
        hasher.update(filter);
    }
    hasher.finalize().into()
}

impl Tree {
    /// Saves the index, in one step: the file is the old one or the new one, readable by its owner alone. A power cut
    /// may damage it, which the next `new` notices. Nothing is saved of a root that was never seen.
    pub fn save(&self, path: &[u8]) -> io::Result<()> {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = Path::new(&beside);
        let state = lock(&self.state);
        let Some(identity) = state.identity else {
            return Ok(());
        };
        match std::fs::remove_file(beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(beside)?;
        let identity = [&identity.to_bytes()[..], &self.filters].concat();
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let written = state.index.save(&mut out, &identity).and_then(|()| out.flush());
        drop(state);
        written
            .and_then(|()| std::fs::rename(beside, path))
            .inspect(|()| failpoint::hit(Point::AfterIndex))
            .inspect_err(|_| drop(std::fs::remove_file(beside)))
    }
}

impl State {
    /// Takes over the index saved at `path`, if it is of this root and these filters; else the notice says why not.
    pub fn restore(&mut self, path: &[u8], root: &Root, filters: &[u8; 32]) {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let data = match std::fs::read(path) {
            Ok(data) => data,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => {
                self.notice = format!("the saved index could not be read: {e}");
                return;
            }
        };
        if let Err(why) = self.take_over_saved(&data, root, filters) {
            self.notice = format!("what was known of this root is not used: {why}");
        }
    }

    fn take_over_saved(&mut self, data: &[u8], root: &Root, filters: &[u8; 32]) -> Result<(), String> {
        let (index, saved) = Index::load(data).map_err(|e| e.to_string())?;
        let (identity, saved_filters) = saved.split_at_checked(IDENTITY).ok_or("it is not of a root")?;
        if saved_filters != filters {
            return Err("it was made with other filters".to_owned());
        }
        let same = self.identity.is_some_and(|here| here.to_bytes() == identity);
        if !same {
            // A file system that is not mounted leaves an empty directory in its place.
            self.suspect = index.entries() > 0 && root::is_empty(root).unwrap_or(true);
            return Err("the root is another directory than it was".to_owned());
        }
        self.index = index;
        (self.new, self.stale) = (false, true);
        Ok(())
    }
}
