//! The program: arguments, a command, an exit code.

use std::num::NonZero;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// Callbacks are made of many small pieces that one thread allocates and another frees.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A runtime for commits and queries, with half as many threads as cores: HTTP has its own workers, one per core, and
/// work that stays on one thread wakes no other.
fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    Builder::new_multi_thread()
        .worker_threads(cores.div_ceil(2))
        .enable_all()
        .build()
}

fn main() -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(im_callback::cli::main());
    // A hanging disk would otherwise keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}
