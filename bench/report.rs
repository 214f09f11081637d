//! The tables, and the page of the documentation.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use mongodb::bson::doc;

use crate::results::{AtRate, Goal, Measured, Results};
use crate::{Bench, plots};

/// A row of the table of goals.
fn row(measured: &Measured) -> String {
    let with_unit = |number: String| format!("{number} {}", measured.unit).trim_end().to_owned();
    let (sign, goal, stretch, is_within): (_, _, _, fn(f64, f64) -> bool) = match measured.goal {
        Goal::AtLeast(goal, stretch) => ("≥", goal, stretch, |value, bound| value >= bound),
        Goal::AtMost(goal, stretch) => ("≤", goal, stretch, |value, bound| value <= bound),
    };
    let met = match (
        is_within(measured.value, goal),
        is_within(measured.value, stretch),
    ) {
        (_, true) => "stretch",
        (true, false) => "goal",
        (false, false) => "**no**",
    };
    format!(
        "| {} | {} | {sign} {} | {sign} {} | {met} |",
        measured.what,
        with_unit(format!("{:.2}", measured.value)),
        with_unit(goal.to_string()),
        with_unit(stretch.to_string()),
    )
}

/// What it was measured on.
pub struct Machine(Vec<(&'static str, String)>);

impl Machine {
    pub fn of(bench: &Bench) -> Self {
        let said = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            let text =
                output.map_or_else(|_| String::new(), |o| String::from_utf8(o.stdout).unwrap());
            text.trim().to_owned()
        };
        let field = |path: &str, name: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let memory: f64 = field("/proc/meminfo", "MemTotal")
            .trim_end_matches(" kB")
            .parse()
            .unwrap_or_default();
        let admin = bench.client.database("admin");
        let build = bench
            .runtime
            .block_on(async { admin.run_command(doc! { "buildInfo": 1 }).await });
        let status = bench
            .runtime
            .block_on(async { admin.run_command(doc! { "serverStatus": 1 }).await });
        let cache = status.ok().and_then(|status| {
            let cache = status
                .get_document("wiredTiger")
                .ok()?
                .get_document("cache")
                .ok()?
                .clone();
            let bytes = cache.get("maximum bytes configured")?;
            bytes.as_i64().or_else(|| bytes.as_i32().map(i64::from))
        });
        let cache = cache.map_or(0.0, |bytes| bytes as f64 / (1 << 30) as f64);
        let is_changed =
            !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
        let changed = if is_changed { ", with changes" } else { "" };
        Self(vec![
            ("date", said("date", &["+%F"])),
            (
                "commit",
                said("git", &["rev-parse", "--short=12", "HEAD"]) + changed,
            ),
            (
                "processor",
                format!("{}, {cores} cores", field("/proc/cpuinfo", "model name")),
            ),
            ("memory", format!("{:.0} GiB", memory / 1024.0 / 1024.0)),
            ("kernel", said("uname", &["-sr"])),
            (
                "MongoDB",
                format!(
                    "{}, {cache:.1} GiB of cache",
                    build.unwrap().get_str("version").unwrap()
                ),
            ),
            ("Rust", said("rustc", &["--version"])),
            ("Node.js", said("node", &["--version"])),
        ])
    }
}

pub fn print(results: &Results) {
    print!("\n{}", tables(results));
}

fn tables(results: &Results) -> String {
    let mut text = String::new();
    if !results.goals.is_empty() {
        text += "| what | measured | goal | stretch | met |\n| --- | --- | --- | --- | --- |\n";
    }
    for measured in &results.goals {
        text += &row(measured);
        text += "\n";
    }
    if !results.rates.is_empty() {
        text += "\nCallbacks a second (bare mongod: documents):\n\n";
        text += "| connections | im-callback | Express | Rust by hand | no-op | bare mongod | limit |\n";
        text += "| --- | --- | --- | --- | --- | --- | --- |\n";
    }
    for rates in &results.rates {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            rates.connections,
            rates.service,
            rates.express,
            rates.rust,
            rates.no_op,
            rates.bare,
            rates.limit,
        );
    }
    if !results.latencies.is_empty() {
        text += "\nMilliseconds until a callback is acknowledged, open loop:\n\n";
        text +=
            "| callbacks a second | p50 | p90 | p99 | p99.9 |\n| --- | --- | --- | --- | --- |\n";
    }
    for AtRate {
        rate,
        percentiles: [p50, p90, p99, p999],
    } in &results.latencies
    {
        let _ = writeln!(
            text,
            "| {rate:.0} | {p50:.2} | {p90:.2} | {p99:.2} | {p999:.2} |"
        );
    }
    text
}

/// Writes the tables and the plots: a real run into the documentation, any other where builds go.
pub fn write(results: &Results, machine: &Machine, is_real: bool) {
    const BEGIN: &str = "<!-- results -->\n";
    const END: &str = "<!-- end of results -->";
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let folder = if is_real {
        &docs
    } else {
        Path::new(env!("CARGO_TARGET_TMPDIR"))
    };
    let text = std::fs::read_to_string(docs.join("benchmarks.md")).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let machine: Vec<String> = machine
        .0
        .iter()
        .map(|(what, value)| format!("{what}: {value}"))
        .collect();
    let text = format!("{}.\n\n{}\n", machine.join("; "), tables(results));
    plots::draw(results, &folder.join("benchmarks"));
    let page = folder.join("benchmarks.md");
    std::fs::write(&page, [before, BEGIN, &text, END, after].concat()).unwrap();
    println!("\nwritten: {}", page.display());
}
