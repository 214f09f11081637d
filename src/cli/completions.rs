//! `im-callback completions`

use std::io::Write;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure};

const AFTER_HELP: &str = "\
Examples:
  source <(im-callback completions bash)
  im-callback completions zsh > ~/.zfunc/_im-callback
  im-callback completions fish > ~/.config/fish/completions/im-callback.fish";

#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    // First into memory: the generator panics when a pipe is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "im-callback", &mut script);
    let mut script = String::from_utf8(script).context("the script is not UTF-8")?;
    if args.shell == Shell::Bash {
        // The generator spells a program's name in two ways if it has a hyphen, and then completes no subcommand's
        // options: https://github.com/clap-rs/clap/issues/6421
        script = script.replace("im__subcmd__callback", "im__callback");
    }
    std::io::stdout()
        .write_all(script.as_bytes())
        .context("cannot print")?;
    Ok(())
}
