//! The receiver's threads: the generator, and workers, as many as there is work for.
//!
//! None of them begins confined, as the root is known, and may only be made, when chunk 0 is here: the generator confines
//! itself then, workers before their first job. A session in which nothing is listed confines nobody.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Shared, apply, asides, compare};
use crate::beneath::{Root, lock};
use crate::landlock::{self, Access, Confinement};

/// What was being done when a thread could not be restricted.
pub const UNCONFINED: &str = "confining a thread to the destination (SYNCCTL_LANDLOCK=off does without)";

impl Shared {
    /// Starts the generator and the first worker.
    pub fn start(&self) -> io::Result<()> {
        self.spawn("recv-list", compare::run)?;
        self.spawn("recv-apply", apply::run)
    }

    /// Adds a worker, when jobs wait and nobody is free to take them. Whoever queues a job calls this behind it.
    pub fn grow(&self) {
        if self.queue.is_short_handed() {
            // Fewer workers do it, too.
            let _ = self.spawn("recv-apply", apply::run);
        }
    }

    /// What the threads may open from now on: what is in the destination.
    pub fn hold_to(&self, root: &Root) -> io::Result<()> {
        if self.options.confine {
            let _ = self.confinement.set(Confinement::to(root.fd(), Access::Write)?);
        }
        Ok(())
    }

    /// Restricts the calling thread, one of the session's own. False: that failed, and ended the session.
    pub fn enter(&self) -> bool {
        let entered = self.confinement.get().map_or(Ok(()), Confinement::enter);
        let done = entered.is_ok();
        if let Err(e) = entered {
            self.fail("internal", &self.root_path, e.raw_os_error().unwrap_or(0), UNCONFINED);
        }
        done
    }

    /// Undoes what a session that did not finish has left half done. The caller is not one of its threads.
    pub fn roll_back(&self) {
        if !asides::is_due(self) {
            return;
        }
        let work = || {
            if self.enter() {
                asides::roll_back(self);
            }
        };
        std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("recv-back".to_owned());
            // Without a thread it is left to the next session, and to the sweep at the next start.
            let _ = builder.spawn_scoped(scope, work);
        });
    }

    /// Joins the threads, which were told to stop. False when that was done before.
    pub fn join(&self) -> bool {
        let running = std::mem::take(&mut *lock(&self.threads));
        let any = !running.is_empty();
        for thread in running {
            // A panic was reported by its own guard.
            let _ = thread.join();
        }
        any
    }

    /// Starts a thread whose panic, a defect, ends the session instead of hanging it.
    fn spawn(&self, name: &str, work: fn(&Self)) -> io::Result<()> {
        let mut threads = lock(&self.threads);
        let Some(shared) = self.me.upgrade().filter(|_| !self.stopped()) else {
            return Ok(());
        };
        let builder = std::thread::Builder::new().name(name.to_owned());
        threads.push(builder.spawn(landlock::carry(move || {
            if catch_unwind(AssertUnwindSafe(|| work(&shared))).is_err() {
                shared.fail("internal", &shared.root_path, 0, "a receiver thread panicked");
            }
        }))?);
        Ok(())
    }
}
