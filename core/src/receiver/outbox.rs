//! What the receiver has to say, in the order in which it may be said, and its counters.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use super::problems::{self, push};
use crate::beneath::lock;
use crate::wake::Wake;

/// Bytes of itemized lines, and of problems, that wait to be sent; who has more to say waits.
const TEXT_MAX: usize = 4 << 20;
/// One PROBLEMS or ITEMS payload at the most: well below any frame limit.
const PAYLOAD_MAX: usize = 256 << 10;

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// Monotonic counts of one session; see `_core.pyi`.
        #[derive(Default)]
        pub struct Counters { $(pub $name: AtomicU64),* }

        impl Counters {
            /// Every counter by name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed))),*]
            }
        }
    };
}

counters!(
    listed,
    listed_bytes,
    compared,
    wanted_files,
    wanted_bytes,
    files,
    bytes,
    literal,
    matched,
    created,
    updated,
    dirs,
    symlinks,
    linked,
    meta,
    deleted,
    moved,
    held,
    kept_dirs,
    problems,
    skipped,
    conflicts,
    data_bytes,
    list_done,
);

/// Adds to a counter.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// An event: message tag, number, payload.
pub type Event = (&'static str, u32, Option<Vec<u8>>);

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    items: Vec<u8>,
    problems: Vec<u8>,
    forget: Vec<u32>,
    list_credit: u64,
    data_credit: u64,
    data_acked: u64,
    files_done: bool,
    done: bool,
}

/// The events of one receiver, ACK, PROBLEMS and ITEMS coalesced until they are taken.
pub struct Outbox {
    waiting: Mutex<Waiting>,
    room: Condvar,
    wake: Wake,
    ack_every: u64,
    abandoned: AtomicBool,
}

impl Outbox {
    /// Nothing to say yet; the windows are what was granted at first.
    pub fn new(wake: Wake, list_window: u64, data_window: u64) -> Self {
        let waiting = Waiting {
            list_credit: list_window,
            data_credit: data_window,
            data_acked: data_window,
            ..Waiting::default()
        };
        Self {
            waiting: Mutex::new(waiting),
            room: Condvar::new(),
            wake,
            ack_every: (data_window / 4).clamp(1, 1 << 20),
            abandoned: AtomicBool::new(false),
        }
    }

    /// Something changed that is not an event (a failure).
    pub fn signal(&self) {
        self.wake.signal();
    }

    /// Nobody takes events any more: nobody waits for room.
    pub fn abandon(&self) {
        // Under the lock: not between a waiter's look at the flag and its wait.
        let _waiting = lock(&self.waiting);
        self.abandoned.store(true, Ordering::Release);
        self.room.notify_all();
    }

    /// A WANT or BASIS.
    pub fn event(&self, event: Event) {
        lock(&self.waiting).events.push_back(event);
        self.wake.signal();
    }

    /// The queues, once there is room in the one that `full` looks at, or nobody takes events any more.
    fn roomy(&self, full: impl Fn(&Waiting) -> bool) -> std::sync::MutexGuard<'_, Waiting> {
        let mut waiting = lock(&self.waiting);
        while full(&waiting) && !self.abandoned.load(Ordering::Acquire) {
            let woken = self.room.wait(waiting);
            waiting = woken.unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        waiting
    }

    /// One path's trouble. Waits while too many wait already.
    pub fn problem(&self, counters: &Counters, code: u8, errno: i32, path: &[u8]) {
        add(&counters.problems, 1);
        let mut waiting = self.roomy(|w| w.problems.len() >= TEXT_MAX);
        push(&mut waiting.problems, code, errno, path);
        drop(waiting);
        self.wake.signal();
    }

    /// One itemized line, without its NUL. Waits while too many wait already.
    pub fn item(&self, line: &[u8]) {
        let mut waiting = self.roomy(|w| w.items.len() >= TEXT_MAX);
        waiting.items.extend_from_slice(line);
        waiting.items.push(0);
        drop(waiting);
        self.wake.signal();
    }

    /// So many bytes of DATA were used up.
    pub fn consumed(&self, bytes: u64) {
        let mut waiting = lock(&self.waiting);
        waiting.data_credit += bytes;
        let due = waiting.data_credit - waiting.data_acked >= self.ack_every;
        drop(waiting);
        if due {
            self.wake.signal();
        }
    }

    /// Nothing more is wanted of chunk `n`.
    pub fn forget(&self, n: u32, bytes: u64) {
        let mut waiting = lock(&self.waiting);
        waiting.list_credit += bytes;
        waiting.forget.push(n);
        drop(waiting);
        self.wake.signal();
    }

    /// Everything is applied.
    pub fn done(&self) {
        lock(&self.waiting).done = true;
        self.wake.signal();
    }

    /// The next thing to say.
    pub fn next(&self, counters: &Counters) -> Option<Event> {
        self.wake.rearm();
        let mut waiting = lock(&self.waiting);
        if let Some(event) = waiting.events.pop_front() {
            return Some(event);
        }
        if !waiting.items.is_empty() {
            let cut = line_cut(&waiting.items);
            let rest = waiting.items.split_off(cut);
            let payload = std::mem::replace(&mut waiting.items, rest);
            self.room.notify_all();
            return Some(("items", 0, Some(payload)));
        }
        if !waiting.problems.is_empty() {
            let cut = problems::cut(&waiting.problems, PAYLOAD_MAX);
            let rest = waiting.problems.split_off(cut);
            self.room.notify_all();
            return Some(("problems", 0, Some(std::mem::replace(&mut waiting.problems, rest))));
        }
        let ack_due = waiting.data_credit - waiting.data_acked >= self.ack_every || !waiting.forget.is_empty();
        if ack_due {
            return Some(("ack", 0, Some(ack(&mut waiting, counters))));
        }
        if waiting.done && !waiting.files_done {
            waiting.files_done = true;
            return Some(("done", 0, None));
        }
        None
    }
}

fn ack(waiting: &mut Waiting, counters: &Counters) -> Vec<u8> {
    waiting.data_acked = waiting.data_credit;
    let forget = std::mem::take(&mut waiting.forget);
    let mut out = Vec::with_capacity(36 + 4 * forget.len());
    for n in [
        waiting.list_credit,
        waiting.data_credit,
        counters.files.load(Ordering::Relaxed),
        counters.bytes.load(Ordering::Relaxed),
    ] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.extend_from_slice(&(forget.len() as u32).to_le_bytes());
    for n in forget {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out
}

/// Where whole lines of at most PAYLOAD_MAX bytes end.
fn line_cut(items: &[u8]) -> usize {
    if items.len() <= PAYLOAD_MAX {
        return items.len();
    }
    let end = items[..PAYLOAD_MAX].iter().rposition(|&b| b == 0);
    end.map_or(items.len(), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::super::problem;
    use super::super::problems::unpack_problems_untrusted;
    use super::*;

    #[test]
    fn things_are_said_in_order_and_done_comes_last() {
        let counters = Counters::default();
        let out = Outbox::new(Wake::new(-1), 10, 8);
        out.done();
        out.problem(&counters, problem::WRITE, 28, b"a/b");
        out.item(b"cd+++++++++ a/");
        out.consumed(1);
        out.consumed(1);
        out.forget(0, 5);
        out.event(("want", 0, Some(vec![1, 0])));
        let mut said = Vec::new();
        while let Some((tag, _, payload)) = out.next(&counters) {
            if tag == "problems" {
                let problems = unpack_problems_untrusted(&payload.expect("payload")).expect("valid");
                assert_eq!(problems, vec![(b"a/b".to_vec(), problem::WRITE, 28)]);
            } else if tag == "ack" {
                let payload = payload.expect("payload");
                assert_eq!((payload.len(), payload[0], payload[8], payload[32]), (40, 15, 10, 1));
            }
            said.push(tag);
        }
        assert_eq!(said, ["want", "items", "problems", "ack", "done"]);
    }

    #[test]
    fn many_problems_go_in_several_payloads() {
        let counters = Counters::default();
        let out = Outbox::new(Wake::new(-1), 0, 0);
        for _ in 0..20 {
            out.problem(&counters, problem::WRITE, 5, &[b'x'; 60_000]);
        }
        let mut seen = 0;
        while let Some((_, _, Some(payload))) = out.next(&counters) {
            assert!(payload.len() <= PAYLOAD_MAX);
            seen += unpack_problems_untrusted(&payload).expect("valid").len();
        }
        assert_eq!(seen, 20);
        assert!(unpack_problems_untrusted(&[1, 0, 0]).is_err());
        assert!(unpack_problems_untrusted(&[5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]).is_err());
    }

    #[test]
    fn who_has_too_much_to_say_waits_until_it_is_taken_or_nobody_listens() {
        for _ in 0..50 {
            let counters = Counters::default();
            let out = Outbox::new(Wake::new(-1), 0, 0);
            let said = AtomicU64::new(0);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..100 {
                        out.problem(&counters, problem::WRITE, 5, &[b'x'; 60_000]);
                        add(&said, 1);
                    }
                });
                scope.spawn(|| {
                    for _ in 0..100 {
                        out.item(&[b'x'; 60_000]);
                        add(&said, 1);
                    }
                });
                while said.load(Ordering::Relaxed) < 140 {
                    std::thread::yield_now();
                }
                out.next(&counters);
                out.abandon();
            });
            assert_eq!(said.load(Ordering::Relaxed), 200);
        }
    }
}
