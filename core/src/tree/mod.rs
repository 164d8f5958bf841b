//! A tree: all that is known about one root, under one filter set, without looking again.
//!
//! It advises which paths to look at. It proves nothing: whatever is listed or replaced is looked at first.

mod baselines;
mod changes;
pub mod dir;
mod expect;
pub mod index;
mod inodes;
pub mod looks;
#[cfg(test)]
mod model;
mod save;
pub mod signatures;
#[cfg(test)]
mod tests;

pub use dir::{DirId, Expected, Stat};
pub use index::{Index, Listed, Seen};
pub use save::LoadError;
