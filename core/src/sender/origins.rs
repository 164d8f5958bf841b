//! Says of listed files and directories what path they had: the receiver may have them there.

use crate::beneath::{self, Handles, Meta, split};
use crate::list::{DIRECTORY, Entry, REGULAR};
use crate::tree::origins::{Origin, Origins};
use crate::walk::{Part, Sink};

use super::listing::Listing;

/// A list that knows of names that went.
pub struct Traced<'a> {
    /// Where parts go.
    pub listing: &'a Listing,
    /// The source.
    pub handles: &'a Handles,
    /// Names that went.
    pub origins: &'a Origins,
}

impl Traced<'_> {
    /// What a part's entries were, by their places in it.
    fn trace(&self, part: &Part<'_>) -> Vec<(usize, &[u8])> {
        if self.origins.is_empty() {
            return Vec::new();
        }
        let entries = part.entries().zip(part.metas()).enumerate();
        let known = entries.filter_map(|(i, (entry, meta))| {
            let meta = meta.filter(|_| matches!(entry.kind, REGULAR | DIRECTORY) && !entry.name.is_empty())?;
            let origin = self.origins.get(&meta.id.1)?;
            self.is_moved(part.path, &entry, meta, origin)
                .then_some((i, &*origin.path))
        });
        known.collect()
    }

    /// Whether an entry of the inode that had a name is that very file, and the name is still gone. An inode's number is
    /// soon given to another file, whose birth then is after all that was seen of the first.
    fn is_moved(&self, dir: &[u8], entry: &Entry<'_>, meta: &Meta, origin: &Origin) -> bool {
        let born = || beneath::born_at(&*self.handles.dir(dir).ok()?, entry.name, meta.id.1);
        let (parent, name) = split(&origin.path);
        let there = || beneath::stat_at(&*self.handles.dir(parent).ok()?, name).ok();
        born().is_some_and(|born| born <= origin.ctime) && there().is_none()
    }
}

impl Sink for Traced<'_> {
    fn part(&self, part: &Part<'_>) -> bool {
        self.listing.take(part, &self.trace(part))
    }
}
