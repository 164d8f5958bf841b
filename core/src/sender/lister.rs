//! The thread that lists: what the session asks for, then what the receiver does.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::beneath::{Root, lock};
use crate::profile::Stage;
use crate::tree::Tree;
use crate::tree::origins::Origins;
use crate::tree::scan::Scan;
use crate::walk::names::Names;
use crate::walk::{self, Lens, Part, Sink, Walk};

use super::engine::Engine;
use super::jobs::Job;
use super::origins::Traced;

impl Engine {
    /// Lists what is asked for, until nothing is.
    pub(super) fn list(self: &Arc<Self>) {
        let origins = self.origins();
        let traced = Traced {
            listing: &self.listing,
            handles: &self.source.handles,
            origins: &origins,
        };
        while !self.is_stopped()
            && let Some(job) = self.jobs.next()
        {
            // Walkers are started confined, by this thread.
            if job.named && !self.enter() {
                return;
            }
            match self.source.single() {
                Some(single) if job.own => {
                    let entry = || single.entry(&self.source, self.settings.walk.hashes, &self.stop);
                    let entry = self.profile.time(Stage::Walk, entry);
                    self.listing.single(&entry);
                }
                // That one file was listed.
                Some(_) => {}
                None => self.list_names(&job, &traced),
            }
            if !self.is_stopped() {
                self.listing.finish();
            }
        }
    }

    /// What has gone since what the receiver has was agreed.
    fn origins(&self) -> Origins {
        match (&self.settings.tree, self.settings.since) {
            (Some(tree), Some(since)) => self.profile.time(Stage::Walk, || tree.origins(since)),
            _ => Origins::new(),
        }
    }

    fn list_names(&self, job: &Job, traced: &Traced<'_>) {
        let root = self.source.handles.root();
        let lens = Lens {
            options: &self.settings.walk,
            profile: &self.profile,
            stop: &self.stop,
        };
        let mut names = lock(&self.names);
        let starts = self.profile.time(Stage::Walk, || {
            job.ask(&mut names, &lens);
            names.look(root, lens, traced)
        });
        let everything = starts.iter().any(|start| start.path.is_empty());
        if everything && !job.own {
            self.listing.again();
        }
        if !starts.is_empty() {
            let tree = self.settings.tree.as_ref().filter(|tree| everything && tree.is_new());
            let scan = tree.map(Tree::scan_sink);
            let tee = Tee(scan.as_ref(), traced);
            let walk = Walk::at(starts, root, &self.settings.walk, &tee, &self.profile, &self.stop);
            // One walker is enough to end the walk.
            std::thread::scope(|scope| walk::join_in(&walk, self.settings.threads, scope));
            if let Some(scan) = scan.filter(|_| !self.is_stopped()) {
                scan.finish();
            }
        }
        if let Some(tree) = &self.settings.tree
            && !everything
        {
            self.profile
                .time(Stage::Walk, || self.list_links(&mut names, tree, root, lens));
        }
    }

    /// A file that was listed has other names, which are as they were: they are listed with it, to be linked.
    fn list_links(&self, names: &mut Names, tree: &Tree, root: &Root, lens: Lens<'_>) {
        let inodes = self.listing.take_linked();
        if inodes.is_empty() {
            return;
        }
        for path in tree.names_of(&inodes) {
            names.ask(&path, false, &lens);
        }
        names.look(root, lens, &self.listing);
    }
}

/// A walk's parts go to both. What the first makes of them is its own affair: the list is to be complete.
struct Tee<'a>(Option<&'a Scan>, &'a Traced<'a>);

impl Sink for Tee<'_> {
    fn enter(&self, path: &[u8], fd: BorrowedFd<'_>) {
        if let Some(tee) = self.0 {
            tee.enter(path, fd);
        }
    }

    fn part(&self, part: &Part<'_>) -> bool {
        if let Some(tee) = self.0 {
            tee.part(part);
        }
        self.1.part(part)
    }
}
