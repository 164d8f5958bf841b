//! What confinement costs, in microseconds: `cargo bench --bench confine`. Every comparison alternates.

use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use _core::beneath::{self, Handles, Root};
use _core::landlock::{self, Access, Confinement};
use rustix::fs::{Mode, OFlags};

const DIRS: usize = 1000;
const FILES: usize = 100;
const ROUNDS: usize = 7;
const THREADS: usize = 2000;

fn build(top: &Path) -> Vec<(String, Vec<String>)> {
    (0..DIRS)
        .map(|d| {
            let dir = format!("part{}/sub{}/d{d}", d % 10, d % 100);
            std::fs::create_dir_all(top.join(&dir)).expect("mkdir");
            let files: Vec<String> = (0..FILES).map(|f| format!("file{f}")).collect();
            files
                .iter()
                .for_each(|f| std::fs::write(top.join(&dir).join(f), [0; 16]).expect("write"));
            (dir, files)
        })
        .collect()
}

/// Every file by its whole path.
fn plain(top: &Path, tree: &[(String, Vec<String>)]) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for (dir, files) in tree {
        for file in files {
            let path = [top.as_os_str().as_bytes(), dir.as_bytes(), file.as_bytes()].join(&b'/');
            let fd = rustix::fs::open(path.as_slice(), flags, Mode::empty()).expect("open");
            black_box(beneath::stat(&fd).expect("stat"));
        }
    }
}

/// Every file by its directory's handle, which is opened beneath the root.
fn held(top: &Path, tree: &[(String, Vec<String>)]) {
    let handles = Handles::new(Root::open(top.as_os_str().as_bytes()).expect("root"));
    for (dir, files) in tree {
        for file in files {
            let dir = handles.dir(dir.as_bytes()).expect("dir");
            black_box(beneath::open_read_at(&*dir, file.as_bytes()).expect("open"));
        }
    }
}

/// Microseconds for each of `count`.
fn timed(count: usize, work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64() * 1e6 / count as f64
}

fn confined(root: &Root, access: Access, work: impl FnOnce() + Send) {
    let confinement = Confinement::to(root.fd(), access).expect("ruleset");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            confinement.enter().expect("confined");
            work();
        });
    });
}

/// The middle of each column, and of the ratios to the first, round by round.
fn report(names: &[&str], rounds: &[Vec<f64>]) {
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    for (at, name) in names.iter().enumerate() {
        let figure = middle(rounds.iter().map(|round| round[at]).collect());
        let ratio = middle(rounds.iter().map(|round| round[at] / round[0]).collect());
        println!("{name:<56} {figure:>8.2} us  x {ratio:.3}");
    }
}

fn main() {
    let base: PathBuf = std::env::temp_dir().join(format!("syncctl-bench-confine-{}", std::process::id()));
    let top = base.join("a/root/somewhere");
    std::fs::create_dir_all(&top).expect("mkdir");
    let tree = build(&top);
    let root = Root::open(top.as_os_str().as_bytes()).expect("root");
    println!(
        "Landlock ABI {}; {} files, opened, looked at and closed",
        landlock::abi(),
        DIRS * FILES
    );
    plain(&top, &tree);
    let rounds: Vec<Vec<f64>> = (0..ROUNDS)
        .map(|_| {
            let count = DIRS * FILES;
            let mut in_thread = 0.0;
            let first = timed(count, || plain(&top, &tree));
            let second = timed(count, || held(&top, &tree));
            confined(&root, Access::Read, || {
                let handles = Handles::new(Root::from_fd(root.open_dir(b"").expect("root")));
                in_thread = timed(count, || {
                    for (dir, files) in &tree {
                        for file in files {
                            let dir = handles.dir(dir.as_bytes()).expect("dir");
                            black_box(beneath::open_read_at(&*dir, file.as_bytes()).expect("open"));
                        }
                    }
                });
            });
            vec![first, second, in_thread]
        })
        .collect();
    report(
        &["plain open, whole path", "beneath (openat2)", "beneath, Landlocked"],
        &rounds,
    );

    let rounds: Vec<Vec<f64>> = (0..ROUNDS)
        .map(|_| {
            let threads = |work: &(dyn Fn() + Sync)| {
                timed(THREADS, || {
                    for _ in 0..THREADS {
                        std::thread::scope(|scope| drop(scope.spawn(work)));
                    }
                })
            };
            let confinement = Confinement::to(root.fd(), Access::Write).expect("ruleset");
            vec![
                threads(&|| ()),
                threads(&|| confinement.enter().expect("confined")),
                threads(&|| {
                    let own = Confinement::to(root.fd(), Access::Write).expect("ruleset");
                    own.enter().expect("confined");
                }),
            ]
        })
        .collect();
    report(
        &[
            "a thread",
            "a thread that restricts itself",
            "a thread with a ruleset of its own",
        ],
        &rounds,
    );
    std::fs::remove_dir_all(base).expect("clean");
}
