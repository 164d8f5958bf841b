//! The receiver's threads: the generator, and workers, as many as there is work for.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Shared, apply, compare};
use crate::beneath::lock;

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
        threads.push(builder.spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| work(&shared))).is_err() {
                shared.fail("internal", &shared.root_path, 0, "a receiver thread panicked");
            }
        })?);
        Ok(())
    }
}
