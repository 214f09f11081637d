//! `im-callback doctor`: looks at everything that the service depends on, and says what is wrong and the way out.

mod machine;
mod mongodb;
mod settings;

use std::io::Write;

use anyhow::{Context, anyhow};

use super::{Failure, Load};
use crate::check::{Check, CheckResult};
use crate::config::{Config, look_alikes};
use crate::words::counted;

pub use mongodb::checks as of_mongodb;

#[derive(clap::Args, Debug)]
pub struct DoctorArgs {
    /// Print one JSON object a line: check, result, found, way_out
    #[arg(long)]
    json: bool,
}

/// The names of the checks that need a valid configuration and are not MongoDB's own.
const OTHERS: [&str; 7] = [
    settings::SECRETS,
    settings::APPS,
    machine::OPEN_FILES,
    machine::SPOOL_FOLDER,
    machine::SPOOL_SPACE,
    machine::SPOOL_CONTENTS,
    machine::SERVICE,
];

const CONFIGURATION: &str = "configuration";
const ENVIRONMENT: &str = "environment";

pub async fn run(args: DoctorArgs, load: impl Load) -> Result<(), Failure> {
    let mut report = Findings::new(args.json);
    match load(&[]) {
        Err(error) => {
            let way_out = "config/default.toml describes every key";
            for problem in error.to_string().lines() {
                let problem = problem.strip_prefix("configuration: ").unwrap_or(problem);
                report.say(&[Check::error(CONFIGURATION, problem, way_out)])?;
            }
            report.say(&[environment(None)])?;
            let later = OTHERS.iter().chain(&mongodb::CHECKS);
            let later: Vec<_> = later
                .map(|name| Check::not_checked(name, "the configuration comes first"))
                .collect();
            report.say(&later)?;
        }
        Ok(config) => {
            report.say(&[
                Check::ok(CONFIGURATION, summary(&config)),
                environment(Some(&config.secret_variables)),
            ])?;
            report.say(&settings::secrets(&config))?;
            report.say(&settings::apps(&config))?;
            report.say(&[machine::open_files(&config)])?;
            report.say(&machine::spool(&config).await)?;
            report.say(&[machine::service(&config).await])?;
            report.say(&of_mongodb(&config).await)?;
        }
    }
    report.end()
}

fn summary(config: &Config) -> String {
    let apps = counted(config.apps.len(), "app");
    format!(
        "valid, with {apps} and {}",
        counted(config.keys.len(), "key")
    )
}

/// `used` are the variables that secrets are read from, where the configuration says so.
fn environment(used: Option<&[String]>) -> Check {
    let found = look_alikes(used.unwrap_or_default());
    if found.is_empty() {
        return Check::ok(ENVIRONMENT, "no variable looks like a key that is not read");
    }
    let names: Vec<_> = found.iter().map(|one| one.found.as_str()).collect();
    let right: Vec<_> = found.iter().map(|one| one.right.as_str()).collect();
    let (names, right) = (names.join(", "), right.join(", "));
    let found = match used {
        Some(_) => format!("{names}: not read, though it looks like a configuration key"),
        None => format!("{names}: not read as a configuration key, though it looks like one"),
    };
    Check::warning(
        ENVIRONMENT,
        found,
        format!("the names that are read: {right}"),
    )
}

/// The checks as they are printed, and how many went wrong.
pub struct Findings {
    as_json: bool,
    errors: usize,
    warnings: usize,
    not_checked: usize,
}

impl Findings {
    /// Nothing is said yet.
    pub fn new(as_json: bool) -> Self {
        Self {
            as_json,
            errors: 0,
            warnings: 0,
            not_checked: 0,
        }
    }

    /// Prints checks, at once: a later one may take seconds.
    pub fn say(&mut self, checks: &[Check]) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        for check in checks {
            match check.result {
                CheckResult::Error => self.errors += 1,
                CheckResult::Warning => self.warnings += 1,
                CheckResult::NotChecked => self.not_checked += 1,
                CheckResult::Ok => {}
            }
            let text = if self.as_json {
                serde_json::to_string(check).context("cannot write JSON")?
            } else {
                line(check)
            };
            writeln!(out, "{text}").context("cannot print")?;
        }
        out.flush().context("cannot print")
    }

    /// Sums up. Warnings are no failure.
    pub fn end(self) -> Result<(), Failure> {
        let (errors, warnings) = (
            counted(self.errors, "error"),
            counted(self.warnings, "warning"),
        );
        if self.errors > 0 {
            return Err(anyhow!("{errors}, {warnings}, {} not checked", self.not_checked).into());
        }
        if !self.as_json {
            let mut out = std::io::stdout();
            let said = match (self.warnings, self.not_checked) {
                (0, 0) => writeln!(out, "all is well"),
                (_, 0) => writeln!(out, "no errors, {warnings}: the service works"),
                (_, n) => writeln!(out, "no errors, {warnings}, {n} not checked"),
            };
            said.context("cannot print")?;
        }
        Ok(())
    }
}

fn line(check: &Check) -> String {
    let Check {
        name,
        result,
        found,
        way_out,
    } = check;
    let line = format!("{:<11}  {name:<22}  {found}", result.as_str());
    match way_out {
        Some(way_out) => format!("{line}\n{:<37}→ {way_out}", ""),
        None => line,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::store::diagnosis::OutageReason;

    /// `docs/doctor.md` is where somebody looks up a name that a script or `/readyz` shows.
    #[test]
    fn every_check_and_reason_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctor.md");
        let document = std::fs::read_to_string(path).unwrap();
        let checks = OTHERS.iter().chain(&mongodb::CHECKS);
        let checks = checks.chain(&[CONFIGURATION, ENVIRONMENT]).copied();
        let reasons = OutageReason::ALL.map(OutageReason::code);
        for name in checks.chain(reasons) {
            assert!(document.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
