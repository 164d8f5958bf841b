//! Single names that are looked at, instead of all that a walk finds.
//!
//! What was asked for and what was told of it is kept as a tree of names for a whole session, so that nothing is told
//! twice and work is linear in the paths' length. Each directory on the way to a name is told of before the name.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use super::one::{Content, Lens, Seen, Space, is_gone};
use super::part::{Found, Part};
use super::{Sink, Start};
use crate::beneath::{self, Root, join, split};
use crate::list;
use crate::temp;

const ROOT: u32 = 0;

/// What was told of a name.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    /// It is a directory.
    Directory,
    /// It is a directory, with everything below it.
    Deep,
    /// It is nothing that has names below it, or does not exist.
    Leaf,
}

/// What is asked of a name, beyond being on the way to another.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    Nothing,
    Itself,
    Deep,
}

#[derive(Default)]
struct Node {
    below: BTreeMap<Box<[u8]>, u32>,
    told: Told,
    asked: Asked,
    /// Something is asked of it or of a name below it.
    due: bool,
    /// As a directory it is excluded.
    hidden: bool,
}

/// The names of one session.
pub struct Names {
    nodes: Vec<Node>,
    way: Vec<u32>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            way: Vec::new(),
        }
    }
}

impl Names {
    /// How many names there are to remember.
    pub fn remembered(&self) -> usize {
        self.nodes.len()
    }

    /// Asks for `path`, relative and plain, "" for the root; `deep`, with everything below it. What is excluded, our own,
    /// or was told of is passed over; but when everything is asked for, everything is told of again.
    pub fn ask(&mut self, path: &[u8], deep: bool, lens: &Lens<'_>) {
        if deep && path.is_empty() {
            *self = Self::default();
        }
        let mut at = ROOT;
        self.way.clear();
        self.way.push(at);
        let mut end = 0;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            end += usize::from(end > 0) + name.len();
            let node = &self.nodes[at as usize];
            if node.hidden || node.is_settled() || temp::is_private(name) {
                return;
            }
            at = match node.below.get(name) {
                Some(&below) => below,
                None => self.add(at, name, lens.options.filter.excludes(&path[..end], true)),
            };
            self.way.push(at);
        }
        let node = &mut self.nodes[at as usize];
        if node.is_settled() || !deep && (node.told == Told::Directory || node.asked == Asked::Itself) {
            return;
        }
        node.asked = if deep { Asked::Deep } else { Asked::Itself };
        if deep {
            node.below.clear();
        }
        for &id in self.way.iter().rev() {
            self.nodes[id as usize].due = true;
        }
    }

    fn add(&mut self, parent: u32, name: &[u8], hidden: bool) -> u32 {
        let id = self.nodes.len() as u32;
        self.nodes.push(Node {
            hidden,
            ..Node::default()
        });
        self.nodes[parent as usize].below.insert(name.into(), id);
        id
    }

    /// Looks at what is asked for, and tells `sink` of it in PARTIAL groups. Returns the directories that are to be walked.
    pub fn look(&mut self, root: &Root, lens: Lens<'_>, sink: &dyn Sink) -> Vec<Start> {
        Looking {
            names: self,
            root,
            lens,
            sink,
            found: Found::default(),
            space: Space::default(),
            opened: None,
            deep: Vec::new(),
        }
        .run()
    }

    /// The names below `id` that are due, with their nodes; they are no longer.
    fn take_due(&mut self, id: u32) -> Vec<(Box<[u8]>, u32)> {
        let below = self.nodes[id as usize].below.iter();
        let due: Vec<_> = below
            .filter(|(_, id)| self.nodes[**id as usize].due)
            .map(|(name, id)| (name.clone(), *id))
            .collect();
        for (_, id) in &due {
            self.nodes[*id as usize].due = false;
        }
        due
    }
}

impl Node {
    /// Nothing is left to be told of it, nor of what is below, beyond what is asked already.
    fn is_settled(&self) -> bool {
        matches!(self.told, Told::Deep | Told::Leaf) || self.asked == Asked::Deep
    }

    fn tell(&mut self, told: Told) {
        self.told = told;
        self.asked = Asked::Nothing;
        if told != Told::Directory {
            self.below = BTreeMap::new();
        }
    }
}

/// Names while they are looked at.
struct Looking<'a> {
    names: &'a mut Names,
    root: &'a Root,
    lens: Lens<'a>,
    sink: &'a dyn Sink,
    found: Found,
    space: Space,
    /// The directory opened last.
    opened: Option<(Vec<u8>, OwnedFd)>,
    deep: Vec<Start>,
}

impl Looking<'_> {
    fn run(mut self) -> Vec<Start> {
        let node = &mut self.names.nodes[ROOT as usize];
        if !std::mem::take(&mut node.due) {
            return self.deep;
        }
        if node.asked == Asked::Deep {
            node.tell(Told::Deep);
            // The walk of the root tells of the root itself.
            return vec![whole(Vec::new())];
        }
        if node.told == Told::Nothing {
            node.tell(Told::Directory);
            let meta = beneath::stat(self.root.fd()).ok();
            self.found.push(meta, b"", &Content::of(list::DIRECTORY));
        }
        let mut dirs = vec![(ROOT, Vec::new())];
        while let Some((id, path)) = dirs.pop() {
            if self.lens.stop.load(Ordering::Relaxed) || !self.directory(id, &path, &mut dirs) {
                return Vec::new();
            }
        }
        self.deep
    }

    /// Looks at the due names of one directory, and adds those directories among them that have some themselves. False: the
    /// sink takes no more.
    fn directory(&mut self, id: u32, path: &[u8], dirs: &mut Vec<(u32, Vec<u8>)>) -> bool {
        let mut failed = None;
        for (name, id) in self.names.take_due(id) {
            let node = &self.names.nodes[id as usize];
            if node.told == Told::Directory && node.asked != Asked::Deep {
                dirs.push((id, join(path, &name)));
                continue;
            }
            if failed.is_none() {
                failed = self.open(path).err();
            }
            let told = match &failed {
                None => self.name(path, &name, id),
                // It was there a moment ago: what becomes of it is for the next session.
                Some(e) if is_gone(e) || is_loop(e) => Told::Nothing,
                Some(_) => {
                    self.found.push(None, &name, &Content::of(list::UNREADABLE));
                    Told::Leaf
                }
            };
            self.names.nodes[id as usize].tell(told);
            match told {
                Told::Directory => dirs.push((id, join(path, &name))),
                Told::Deep => self.deep.push(whole(join(path, &name))),
                Told::Nothing | Told::Leaf => {}
            }
            if self.found.is_full() && !self.flush(path) {
                return false;
            }
        }
        self.flush(path)
    }

    /// Looks at one name of the directory opened last.
    fn name(&mut self, path: &[u8], name: &[u8], id: u32) -> Told {
        let Some((_, fd)) = &self.opened else {
            return Told::Nothing;
        };
        let (kind, meta) = match self.lens.look(fd, path, name, &mut self.space) {
            Seen::There(kind, meta) => (kind, meta),
            Seen::Hidden => return Told::Leaf,
            Seen::Gone => (list::GONE, None),
        };
        let content = self.lens.content(fd, path, name, (kind, meta), &mut self.space);
        match content {
            Some(content) => self.found.push(meta, name, &content),
            None => self.found.push(None, name, &Content::of(list::GONE)),
        }
        match (kind, self.names.nodes[id as usize].asked) {
            (list::DIRECTORY, Asked::Deep) => {
                self.found.deepen();
                Told::Deep
            }
            (list::DIRECTORY, _) => Told::Directory,
            _ => Told::Leaf,
        }
    }

    fn open(&mut self, path: &[u8]) -> std::io::Result<()> {
        let (parent, name) = split(path);
        let fd = match &self.opened {
            Some((opened, _)) if opened == path => return Ok(()),
            Some((opened, fd)) if opened == parent && !path.is_empty() => beneath::open_dir_at(fd, name)?,
            _ => self.root.open_dir(path)?,
        };
        self.opened = Some((path.to_vec(), fd));
        Ok(())
    }

    fn flush(&mut self, path: &[u8]) -> bool {
        if self.found.is_empty() {
            return true;
        }
        let taken = self.sink.part(&Part {
            path,
            flags: list::FIRST | list::LAST | list::PARTIAL,
            errno: 0,
            found: &self.found,
        });
        self.found.clear();
        taken
    }
}

fn whole(path: Vec<u8>) -> Start {
    Start { path, deep: true }
}

fn is_loop(e: &std::io::Error) -> bool {
    e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

#[cfg(test)]
mod tests;
