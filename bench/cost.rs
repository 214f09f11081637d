//! What verifying, decoding and making documents costs, without a clock: `scripts/cost.py` runs this under
//! valgrind, which counts instructions and allocations.
//!
//! Two runs over different numbers of callbacks differ by what the callbacks cost; all else is the same.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that panics has failed"
)]

mod app;
#[allow(dead_code, reason = "of the load, only its bodies are needed")]
mod callbacks;

use std::hint::black_box;

use app::{App, Callback};

fn main() {
    let mut numbers = std::env::args().filter_map(|word| word.parse::<usize>().ok());
    let count = numbers.next().unwrap_or(1000);
    // As many are made in every run, so that making them is no part of the difference.
    let made = numbers.next().unwrap_or(count);
    let callbacks: Vec<Callback> = (0..made)
        .map(|n| Callback::new(callbacks::body(n).to_string()))
        .collect();
    let app = App::new();
    for callback in &callbacks[..count] {
        black_box(app.writes(black_box(callback)));
    }
}
