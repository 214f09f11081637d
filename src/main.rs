//! The program: arguments, a command, an exit code.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    im_callback::cli::main().await
}
