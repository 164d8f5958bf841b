//! A destination that is full, or whose quota is used up: what the session ends with.

use std::sync::atomic::Ordering;

use super::Shared;

/// Ends the session with what is missing and what there is.
pub fn fail(shared: &Shared) {
    let count = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::Relaxed);
    let need = size(count(&shared.counters.wanted_bytes).saturating_sub(count(&shared.counters.bytes)));
    let errno = shared.full_errno.load(Ordering::Relaxed);
    let room = shared
        .handles()
        .ok()
        .and_then(|h| rustix::fs::fstatvfs(h.root().fd()).ok());
    let what = match room {
        _ if errno == libc::EDQUOT => format!("{need} more are needed than the quota leaves in"),
        Some(room) if room.f_files > 0 && room.f_favail == 0 => "no inode is free for another file in".to_owned(),
        Some(room) => {
            let free = size(room.f_bavail.saturating_mul(room.f_frsize));
            format!("{need} more are needed and {free} are free in")
        }
        None => "writing".to_owned(),
    };
    shared.fail("destination-full", &shared.root_path, errno, &what);
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}
