//! What a sender finds out about its link while it sends, and whether packing payloads pays there.
//!
//! Packing pays where the link is slower than the processor: not over a loopback or a fast network, where both ends'
//! time is what is short. So the link's rate is measured, and so is the speed of packing at each level.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::beneath::lock;

/// Levels in use. Above 5 zstd takes three times as long for 1 % (sources, in batches of 512 KiB: 4.2 at level 1,
/// 4.5 at 3, 4.8 at 5, 5.0 at 6 to 7).
const LEVELS: usize = 5;
/// The level for a link of which only its length is known: about as fast as level 1.
const FIRST_LEVEL: usize = 3;
/// Bytes a second at level 1, until it was measured.
const SPEED: f64 = 250e6;
/// Raw bytes to packed ones, until they were seen.
const RATIO: f64 = 3.0;
/// A rate is what went out in so much time spent sending: long enough for what the kernel's and ssh's buffers swallow
/// at the beginning (some MiB) not to pass for speed.
const SPAN: Duration = Duration::from_millis(250);
/// Packing pays where one worker packs so many times what the link takes. A near link's low rate may as well be this
/// processor's, busy with both ends of ssh: there it has to be plainer.
const PAYS: f64 = 2.0;
const PAYS_NEAR: f64 = 4.0;
/// With so much time in which nothing waited to be sent, the link is not what there is to wait for: a rate is stale.
const STALE: Duration = Duration::from_secs(1);
/// A new observation's weight.
const WEIGHT: f64 = 0.25;

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compress {
    /// Never pack.
    Never,
    /// Where it pays.
    Auto,
    /// Whatever the link (but not what does not shrink).
    Always,
}

impl Compress {
    /// By its name in `_core.pyi`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "never" => Some(Self::Never),
            "auto" => Some(Self::Auto),
            "always" => Some(Self::Always),
            _ => None,
        }
    }
}

/// One session's link, as its sender sees it.
pub struct Link {
    compress: Compress,
    far: bool,
    workers: f64,
    state: Mutex<State>,
}

struct State {
    meter: Meter,
    ratio: f64,
    /// Raw bytes a second of one worker, by level from 1; None: not seen yet.
    speeds: [Option<f64>; LEVELS],
}

impl Link {
    /// A link that is long (`far`: taken for slow until it is measured) or of which nothing is known; as many packers.
    pub fn new(compress: Compress, far: bool, workers: usize) -> Self {
        Self {
            compress,
            far,
            workers: workers as f64,
            state: Mutex::new(State {
                meter: Meter::default(),
                ratio: RATIO,
                speeds: [None; LEVELS],
            }),
        }
    }

    /// The zstd level for what goes out next; None: as it is.
    pub fn level(&self) -> Option<i32> {
        if self.compress == Compress::Never {
            return None;
        }
        let pays = if self.far { PAYS } else { PAYS_NEAR };
        let state = lock(&self.state);
        let level = match state.meter.rate {
            Some(rate) if self.compress == Compress::Auto && rate * pays >= state.speed(1) => return None,
            Some(rate) => {
                let needed = 2.0 * rate * state.ratio;
                (2..=LEVELS)
                    .rev()
                    .find(|&level| self.workers * state.speed(level) >= needed)
            }
            None if self.far || self.compress == Compress::Always => Some(FIRST_LEVEL),
            None => return None,
        };
        Some(level.unwrap_or(1) as i32)
    }

    /// `raw` bytes were packed to `packed` in so much time.
    pub fn packed(&self, level: i32, raw: usize, packed: usize, took: Duration) {
        let mut state = lock(&self.state);
        let speed = raw as f64 / took.as_secs_f64().max(1e-6);
        let seen = &mut state.speeds[(level as usize).clamp(1, LEVELS) - 1];
        *seen = Some(seen.map_or(speed, |old| old + WEIGHT * (speed - old)));
        let ratio = raw as f64 / packed.max(1) as f64;
        state.ratio += WEIGHT * (ratio - state.ratio);
    }

    /// So many bytes were taken to be sent; what was taken before has gone out.
    pub fn took(&self, bytes: usize) {
        lock(&self.state).meter.took(bytes, Instant::now());
    }

    /// What was taken before has gone out, and there is nothing more now.
    pub fn idle(&self) {
        lock(&self.state).meter.idle(Instant::now());
    }
}

impl State {
    /// Bytes a second of one worker at `level`: as seen, or half of the level below.
    fn speed(&self, level: usize) -> f64 {
        match self.speeds[level - 1] {
            Some(speed) => speed,
            None if level == 1 => SPEED,
            None => self.speed(level - 1) / 2.0,
        }
    }
}

/// A link's rate, from when payloads are taken: who comes for the next one has sent the one before.
#[derive(Default)]
struct Meter {
    /// Bytes a second, when it was measured lately.
    rate: Option<f64>,
    /// The last call, and the bytes that are being sent since; 0: nothing.
    last: Option<Instant>,
    sending: usize,
    sent: u64,
    busy: Duration,
    spare: Duration,
}

impl Meter {
    fn took(&mut self, bytes: usize, now: Instant) {
        self.pass(now);
        self.sending = bytes;
    }

    fn idle(&mut self, now: Instant) {
        self.pass(now);
        self.sending = 0;
    }

    fn pass(&mut self, now: Instant) {
        let passed = self.last.replace(now).map_or(Duration::ZERO, |last| now - last);
        if self.sending > 0 {
            self.busy += passed;
            self.sent += self.sending as u64;
        } else {
            self.spare += passed;
        }
        if self.busy >= SPAN {
            self.rate = Some(self.sent as f64 / self.busy.as_secs_f64());
        } else if self.spare >= STALE {
            self.rate = None;
        } else {
            return;
        }
        (self.busy, self.spare, self.sent) = (Duration::ZERO, Duration::ZERO, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MB: f64 = 1e6;

    fn measured(compress: Compress, far: bool, rate: f64) -> Link {
        let link = Link::new(compress, far, 2);
        lock(&link.state).meter.rate = Some(rate);
        link
    }

    #[test]
    fn a_rate_counts_the_time_spent_sending_alone() {
        let mut meter = Meter::default();
        let mut now = Instant::now();
        meter.idle(now);
        for _ in 0..25 {
            now += 30 * MS;
            meter.took(100_000, now);
            assert_eq!(meter.rate, None);
            now += 10 * MS;
            meter.idle(now);
        }
        let rate = meter.rate.expect("250 ms of sending");
        assert!((rate / 10e6 - 1.0).abs() < 0.01, "{rate}");
        meter.idle(now + 2 * STALE);
        assert_eq!(meter.rate, None);
    }

    #[test]
    fn a_link_is_measured_while_it_is_always_busy() {
        let mut meter = Meter::default();
        let begun = Instant::now();
        for n in 0..100 {
            meter.took(1_000_000, begun + 40 * n * MS);
        }
        let rate = meter.rate.expect("4 s of sending");
        assert!((rate / 25e6 - 1.0).abs() < 0.01, "{rate}");
    }

    #[test]
    fn packing_is_for_links_that_are_slower_than_packing() {
        assert_eq!(Link::new(Compress::Auto, false, 2).level(), None);
        assert_eq!(Link::new(Compress::Auto, true, 2).level(), Some(FIRST_LEVEL as i32));
        assert_eq!(measured(Compress::Auto, true, 600.0 * MB).level(), None);
        assert_eq!(measured(Compress::Auto, false, 100.0 * MB).level(), None);
        assert_eq!(measured(Compress::Auto, true, 100.0 * MB).level(), Some(1));
        assert_eq!(measured(Compress::Always, false, 600.0 * MB).level(), Some(1));
        for far in [false, true] {
            assert_eq!(measured(Compress::Never, far, 1.0 * MB).level(), None);
            assert_eq!(measured(Compress::Auto, far, 1.0 * MB).level(), Some(LEVELS as i32));
        }
    }

    #[test]
    fn levels_follow_what_was_seen() {
        let link = measured(Compress::Auto, true, 25.0 * MB);
        let before = link.level().expect("it pays");
        for _ in 0..20 {
            link.packed(before, 1_000_000, 250_000, 20 * MS);
        }
        assert!(link.level().expect("it still pays") < before);
        for level in 1..=LEVELS as i32 {
            for _ in 0..20 {
                link.packed(level, 1_000_000, 250_000, MS);
            }
        }
        assert_eq!(link.level(), Some(LEVELS as i32));
        for _ in 0..20 {
            link.packed(1, 1_000_000, 250_000, 50 * MS);
        }
        assert_eq!(
            link.level(),
            None,
            "a processor that is busy with other things packs for slower links alone"
        );
    }
}
