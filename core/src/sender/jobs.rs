//! What is to be listed: the session's own looks, or everything, and then what the receiver asks for, LOOK by LOOK.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::beneath::lock;
use crate::tree::looks;
use crate::walk::Lens;
use crate::walk::names::Names;

use super::Violation;

/// LOOKs of one session, and bytes of one: `LOOKS_MAX` and `CONTROL_PAYLOAD_MAX` of proto/limits.py.
const LOOKS_MAX: usize = 16;
const LOOK_MAX: usize = 1 << 20;
/// Names that a receiver's LOOKs may make a sender remember, some 100 bytes each; beyond it everything is listed.
const NAMES_MAX: usize = 1 << 18;

/// What is to be listed next.
pub struct Job {
    looks: Vec<u8>,
    /// It is the session's own.
    pub own: bool,
    /// A peer's names are in it. To ask for the whole root is to name nothing.
    pub named: bool,
}

/// The jobs of one session, done one after the other.
pub struct Jobs {
    state: Mutex<State>,
}

struct State {
    waiting: VecDeque<Job>,
    asked: usize,
    named: bool,
    /// Somebody is at it, or is going to be.
    busy: bool,
}

impl Jobs {
    /// Begins with these looks, or with everything.
    pub fn new(looks: Option<Vec<u8>>) -> Self {
        let everything = || {
            let mut looks = Vec::new();
            looks::push(&mut looks, b"", true);
            looks
        };
        let looks = looks.unwrap_or_else(everything);
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::from([Job {
                    looks,
                    own: true,
                    named: false,
                }]),
                asked: 0,
                named: false,
                busy: true,
            }),
        }
    }

    /// Whether the receiver has named paths of its own.
    pub fn named(&self) -> bool {
        lock(&self.state).named
    }

    /// The next one. None: whoever asks is no longer at it.
    pub fn next(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        let job = state.waiting.pop_front();
        state.busy = job.is_some();
        job
    }

    /// A LOOK. Returns whether somebody has to begin with it.
    pub fn look_untrusted(&self, payload: &[u8]) -> Result<bool, Violation> {
        if payload.is_empty() || payload.len() > LOOK_MAX {
            return Err("a LOOK that is empty, or too long");
        }
        let named = looks::each_untrusted(payload)?.iter().any(|look| !look.path.is_empty());
        let mut state = lock(&self.state);
        state.asked += 1;
        if state.asked > LOOKS_MAX {
            return Err("more LOOKs than a session has");
        }
        state.named |= named;
        state.waiting.push_back(Job {
            looks: payload.to_vec(),
            own: false,
            named,
        });
        Ok(!std::mem::replace(&mut state.busy, true))
    }
}

impl Job {
    /// Whether there is nothing to be looked at.
    pub fn is_empty(&self) -> bool {
        self.looks.is_empty()
    }

    /// Asks for its names.
    pub fn ask(&self, names: &mut Names, lens: &Lens<'_>) {
        // They were checked when they came.
        for look in looks::each_untrusted(&self.looks).unwrap_or_default() {
            names.ask(look.path, look.deep, lens);
            if !self.own && names.remembered() > NAMES_MAX {
                return names.ask(b"", true, lens);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_ask_for_the_whole_root_is_to_name_nothing() {
        let ask = |path: &[u8]| {
            let mut look = Vec::new();
            looks::push(&mut look, path, true);
            look
        };
        let jobs = Jobs::new(Some(Vec::new()));
        assert!(jobs.next().is_some_and(|job| job.own && !job.named) && jobs.next().is_none());
        assert!(jobs.look_untrusted(&ask(b"")).expect("a look"));
        assert!(!jobs.named() && jobs.next().is_some_and(|job| !job.own && !job.named));
        assert!(!jobs.look_untrusted(&[ask(b""), ask(b"a")].concat()).expect("looks"));
        assert!(jobs.named() && jobs.next().is_some_and(|job| job.named));
    }
}
