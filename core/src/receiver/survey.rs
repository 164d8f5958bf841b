//! Looks at everything below an entry that is to go.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;

use super::Shared;
use crate::beneath::{self, Handles, Root, join, split};
use crate::list::DIRECTORY;
use crate::temp::TRASH;

/// What removing one entry would remove, parents before children.
pub struct Survey {
    /// Paths below the root, and whether each is a directory.
    pub entries: Vec<(Vec<u8>, bool)>,
    /// Something in it is protected by a filter: that, and the directories it is in, are not among `entries`.
    pub protected: bool,
    /// Directories that stay for that.
    pub kept: u64,
}

/// Lists `name` in `dir` (whose path below the root is `path`) with everything below it. Iterative: depth is bounded
/// by nothing but the tree, and few handles are open at a time.
pub fn survey(shared: &Shared, dir: impl AsFd, name: &[u8], path: &[u8]) -> io::Result<Survey> {
    let meta = beneath::stat_at(&dir, name)?;
    let directory = meta.kind == DIRECTORY;
    let mut survey = Survey {
        entries: Vec::new(),
        protected: false,
        kept: 0,
    };
    if name == TRASH || shared.options.filter.excludes(path, directory) {
        survey.protected = true;
        return Ok(survey);
    }
    survey.entries.push((path.to_vec(), directory));
    // The directories that hold something protected: they stay.
    let mut kept: HashSet<Vec<u8>> = HashSet::new();
    let mut top: Option<Handles> = None;
    let mut at = 0;
    while at < survey.entries.len() && !shared.stopped() {
        let (here, directory) = survey.entries[at].clone();
        at += 1;
        if !directory {
            continue;
        }
        let fd = match &top {
            None => {
                let fd = beneath::open_dir_at(&dir, name)?;
                top = Some(Handles::new(Root::from_fd(beneath::open_dir_at(&fd, b".")?)));
                fd
            }
            Some(top) => top.own(&here[path.len() + 1..])?,
        };
        let mut names = Vec::new();
        beneath::each_entry(&fd, |n, directory| names.push((n.to_vec(), directory)))?;
        for (n, directory) in names {
            let inner = join(&here, &n);
            let looked = directory.map_or_else(|| beneath::stat_at(&fd, &n).map(|m| m.kind == DIRECTORY), Ok);
            let directory = match looked {
                Ok(directory) => directory,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            if n == TRASH || shared.options.filter.excludes(&inner, directory) {
                survey.protected = true;
                let mut holder = &here[..];
                while holder.len() >= path.len() && kept.insert(holder.to_vec()) {
                    holder = split(holder).0;
                }
            } else {
                survey.entries.push((inner, directory));
            }
        }
    }
    survey.kept = kept.len() as u64;
    survey
        .entries
        .retain(|(entry, directory)| !directory || !kept.contains(entry));
    Ok(survey)
}
