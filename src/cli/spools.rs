//! `im-callback spools`

use std::io::Write;

use anyhow::{Context, anyhow};
use bytesize::ByteSize;

use super::{Failure, Load};
use crate::app::connect;
use crate::store::spools::{KnownSpool, SpoolState};

#[derive(clap::Args, Debug)]
pub struct SpoolsArgs {
    /// Forget this spool: its disk is gone, with whatever was in it
    #[arg(long, value_name = "ID")]
    forget: Option<String>,
}

pub async fn run(args: SpoolsArgs, load: impl Load) -> Result<(), Failure> {
    let config = load(&[])?;
    let store = connect(&config).await?;
    let said = match &args.forget {
        Some(id) if store.forget_spool(id).await.context("not forgotten")? => {
            format!("{id} is forgotten\n")
        }
        Some(id) => {
            return Err(anyhow!(
                "no instance has told of a spool `{id}`; `im-callback spools` lists them"
            )
            .into());
        }
        None => {
            let known = store.known_spools().await;
            let known = known.context("the spools cannot be read")?;
            if known.is_empty() {
                eprintln!("no instance has told of a spool");
            }
            table(&known)
        }
    };
    store.close().await;
    write!(std::io::stdout(), "{said}").context("cannot print")?;
    Ok(())
}

fn table(known: &[KnownSpool]) -> String {
    let lines = known.iter().map(|spool| {
        let KnownSpool {
            state:
                SpoolState {
                    id,
                    host,
                    path,
                    bytes,
                },
            seen_at,
            is_empty,
        } = spool;
        let holds = match (is_empty, bytes) {
            (true, _) => "empty".to_owned(),
            (false, 0) => "may hold callbacks".to_owned(),
            (false, bytes) => format!("holds {}", ByteSize(*bytes)),
        };
        let seen_at = seen_at.try_to_rfc3339_string().unwrap_or_default();
        format!("{id}  {holds}, seen {seen_at}  {host}:{path}\n")
    });
    lines.collect()
}
