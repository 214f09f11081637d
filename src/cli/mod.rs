//! The command line: one file per command.
//!
//! Data goes to standard output, everything else to standard error. Exit codes: 0 for success, 1 for a failure,
//! 2 for a wrong call or configuration.

mod backfill;
mod bodies;
mod check_config;
mod client;
mod completions;
mod dead_letters;
mod doctor;
mod healthcheck;
mod indexes;
mod reconcile;
mod send;
mod serve;
mod sign;
mod spools;
mod token;
mod trace;
mod unread;
mod validators;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};
use crate::words::without_os_codes;

const AFTER_HELP: &str = "\
Any configuration key can be set in the environment: IM_CALLBACK__HTTP__LISTEN=127.0.0.1:9000

Exit codes: 0 success; 1 the command failed; 2 it was called or configured wrongly

Examples:
  im-callback check-config --config im.toml
  im-callback send --config im.toml samples/ day.jsonl
  im-callback unread --config im.toml --user ann --peer bob,carl";

/// Takes an IM provider's signed callbacks, stores every event in MongoDB exactly once, and answers
/// unread counts.
#[derive(Parser, Debug)]
#[command(name = "im-callback", version, about, propagate_version = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// Configuration file (TOML); its keys are described in config/default.toml
    #[arg(long, global = true, env = "IM_CALLBACK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Runs the service until SIGTERM or SIGINT
    Serve(serve::ServeArgs),
    /// Checks the configuration and says what it means, without starting anything
    CheckConfig(check_config::CheckConfigArgs),
    /// Looks at all that the service depends on, and says what is wrong and the way out
    Doctor(doctor::DoctorArgs),
    /// Makes MongoDB's indexes and retention agree with the configuration
    Indexes(indexes::IndexesArgs),
    /// Prints, sets or removes schemas by which MongoDB warns of documents with fields of other types
    Validators(validators::ValidatorsArgs),
    /// Finds messages whose `state` is wrong in MongoDB, and repairs them
    Reconcile(reconcile::ReconcileArgs),
    /// Derives `conversation`, `orderId` and what counts anew for stored messages, by the configuration of today
    Backfill(backfill::BackfillArgs),
    /// Lists the spools of all instances; while one may hold callbacks, counts are not complete
    Spools(spools::SpoolsArgs),
    /// Lists, shows, retries or drops callbacks that could not be decoded
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Tells what happened to a message, and why it counts as unread or does not
    Trace(trace::TraceArgs),
    /// Signs a body as the provider does: prints the headers, or a curl command
    Sign(sign::SignArgs),
    /// Sends files, folders or JSON lines as signed callbacks, and sums up the answers
    Send(send::SendArgs),
    /// Makes a user's token for tests, as the site does for its pages
    Token(token::TokenArgs),
    /// Asks a running service for unread counts: by sender, order and team, or all of a user
    Unread(unread::UnreadArgs),
    /// Asks a running service whether it takes callbacks: one line, and exit code 0 or 1
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Prints a shell's completion script
    Completions(completions::CompletionsArgs),
}

/// What went wrong, by exit code.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1.
    Failed(anyhow::Error),
    /// Exit code 2.
    Usage(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.into())
    }
}

/// Runs the program.
pub async fn main() -> ExitCode {
    let Cli { config, command } = Cli::parse();
    // The driver and reqwest use the same provider. A second call fails and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let load = |flags: &[(&str, String)]| Config::load(config.as_deref(), flags);
    let result = match command {
        Command::Serve(args) => serve::run(args, load).await,
        Command::CheckConfig(args) => check_config::run(&args, load, config.as_deref()).await,
        Command::Doctor(args) => doctor::run(args, load).await,
        Command::Indexes(args) => indexes::run(args, load).await,
        Command::Validators(args) => validators::run(args, load).await,
        Command::Reconcile(args) => reconcile::run(args, load).await,
        Command::Backfill(args) => backfill::run(args, load).await,
        Command::Spools(args) => spools::run(args, load).await,
        Command::DeadLetters(args) => dead_letters::run(args, load).await,
        Command::Trace(args) => trace::run(args, load).await,
        Command::Sign(args) => sign::run(&args, load, config.is_some()),
        Command::Send(args) => send::run(args, load, config.is_some()).await,
        Command::Token(args) => token::run(&args, load),
        Command::Unread(args) => unread::run(args, load, config.is_some()).await,
        Command::Healthcheck(args) => healthcheck::run(args, config.as_deref()).await,
        Command::Completions(args) => completions::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => fail(&error, 1),
        Err(Failure::Usage(error)) => fail(&error, 2),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // A closed pipe (`| head`) is not a failure.
    let broken_pipe = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {}", told(error));
    ExitCode::from(code)
}

/// An error with its causes, each once: the text of some ends with their cause's.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    without_os_codes(&text)
}

/// Loads the configuration with the given flags over it.
trait Load: Fn(&[(&str, String)]) -> Result<Config, ConfigError> {}
impl<F: Fn(&[(&str, String)]) -> Result<Config, ConfigError>> Load for F {}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn causes_are_told_once() {
        let missing = std::io::Error::from_raw_os_error(2);
        let doubled = crate::spool::OpenError::Io {
            path: "data/spool".into(),
            error: missing,
        };
        let error = anyhow::Error::new(doubled).context("cannot start");
        let told = super::told(&error);
        assert_eq!(
            told,
            "cannot start: cannot use the spool data/spool: No such file or directory"
        );
    }
}
