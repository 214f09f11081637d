//! `im-callback indexes`

use std::io::Write;

use anyhow::Context;

use super::{Failure, Load};
use crate::app::connect;

pub async fn run(load: impl Load) -> Result<(), Failure> {
    let config = load(&[])?;
    let store = connect(&config).await?;
    store
        .ensure_indexes(config.retention)
        .await
        .context("the indexes cannot be made")?;
    writeln!(
        std::io::stdout(),
        "indexes are present in database {}",
        config.store.database
    )
    .context("cannot print")?;
    store.close().await;
    Ok(())
}
