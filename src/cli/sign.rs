//! `im-callback sign`

use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::{Context, anyhow};

use super::bodies::tell_of_terminal;
use super::client::{SignerArgs, now, web_address};
use super::{Failure, Load};
use crate::callback::ids::Millis;

#[derive(clap::Args, Debug)]
pub struct SignArgs {
    /// File with the body; by default, and for `-`, standard input
    #[arg(value_name = "FILE")]
    body: Option<PathBuf>,
    #[command(flatten)]
    signer: SignerArgs,
    /// Time of signing, in milliseconds since 1970; by default the current time
    #[arg(long, value_name = "MS", value_parser = millis, allow_negative_numbers = true)]
    cur_time: Option<Millis>,
    /// Print a curl command instead of the headers
    #[arg(long)]
    curl: bool,
    /// Address for the curl command; by default the configured app's
    #[arg(long, value_name = "URL", requires = "curl", value_parser = web_address)]
    url: Option<String>,
}

pub fn run(args: &SignArgs, load: impl Load, has_config: bool) -> Result<(), Failure> {
    let signer = args.signer.signer(load, has_config)?;
    let file = args.body.as_deref().filter(|path| path.as_os_str() != "-");
    let body = match file {
        Some(path) => {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => {
            tell_of_terminal("the body");
            let mut body = Vec::new();
            std::io::stdin()
                .read_to_end(&mut body)
                .context("cannot read standard input")?;
            body
        }
    };
    let cur_time = match args.cur_time {
        Some(millis) => millis,
        None => now()?,
    };
    let url = match args.curl {
        true => signer.callback_url(args.url.as_deref())?,
        false => String::new(),
    };
    let (url, headers) = signer.sign(&url, &body, cur_time);
    let mut text = String::new();
    if args.curl {
        text.push_str("curl -sS -X POST");
        for (name, value) in headers {
            text.push_str(&format!(
                " \\\n  -H {}",
                quoted(&format!("{name}: {value}"))
            ));
        }
        let data = match file {
            Some(path) => format!("@{}", path.display()),
            None => String::from_utf8(body).map_err(|_| {
                Failure::Usage(anyhow!("a body that is not UTF-8 needs a file for --curl"))
            })?,
        };
        // `--data-raw` does not interpret a leading `@` as a file name.
        let option = if file.is_some() {
            "--data-binary"
        } else {
            "--data-raw"
        };
        text.push_str(&format!(" \\\n  {option} {}", quoted(&data)));
        text.push_str(&format!(" \\\n  {}\n", quoted(&url)));
    } else {
        if !url.is_empty() {
            text.push_str(&format!("{url}\n"));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\n"));
        }
    }
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print")?;
    Ok(())
}

fn millis(text: &str) -> Result<Millis, &'static str> {
    let millis = text.parse().ok().and_then(Millis::new);
    millis.ok_or("write milliseconds since 1970, such as 1700000000000")
}

/// Quotes a text for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
