//! One binary for all targets: `FUZZ_TARGET` names the one that runs.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn chosen() -> fn(&[u8]) {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = _core::fuzzed::TARGETS.iter().find(|target| target.0 == name);
    let Some(&(_, run)) = found else {
        let names: Vec<_> = _core::fuzzed::TARGETS.iter().map(|target| target.0).collect();
        eprintln!("FUZZ_TARGET is one of: {}", names.join(" "));
        std::process::exit(2);
    };
    run
}

fuzz_target!(|data: &[u8]| TARGET.get_or_init(chosen)(data));
