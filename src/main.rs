//! The program: arguments, a command, an exit code.

use std::process::ExitCode;
use std::time::Duration;

/// Callbacks are made of many small pieces that one thread allocates and another frees.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(im_callback::cli::main());
    // A disk that hangs would hold the process for good.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}
