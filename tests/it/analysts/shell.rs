//! `mongosh`, and the blocks of a document that it runs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A block that is run, and what it gives by the document.
#[derive(Debug, Clone)]
pub struct Block {
    /// The heading above it.
    pub heading: String,
    pub code: String,
    /// The block of JSON behind it, if there is one.
    pub output: Option<Value>,
}

/// All blocks of JavaScript, in order.
pub fn blocks(document: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut heading = String::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
            title.clone_into(&mut heading);
        }
        let Some(language) = line.strip_prefix("```") else {
            continue;
        };
        let inside: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let text = inside.join("\n");
        match language {
            "js" => blocks.push(Block {
                heading: heading.clone(),
                code: text,
                output: None,
            }),
            "json" => {
                let last = blocks.last_mut().unwrap();
                assert!(last.output.is_none(), "two outputs of {heading}");
                last.output = Some(serde_json::from_str(&text).unwrap());
            }
            _ => {}
        }
    }
    blocks
}

/// A home in which it reports to nobody.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".mongodb/mongosh");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config"), r#"{"enableTelemetry":false}"#).unwrap();
    home
}

/// The program.
pub struct Shell {
    program: PathBuf,
    /// It keeps logs in its user's home.
    home: tempfile::TempDir,
}

impl Shell {
    /// As `scripts/mongosh.py` finds it, which does not fetch it here; `make test` does before.
    pub fn find() -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/mongosh.py");
        let found = Command::new("python3")
            .arg(script)
            .args(["path", "--no-fetch"])
            .output()
            .ok()?;
        let program = String::from_utf8(found.stdout).unwrap();
        found.status.success().then(|| Self {
            program: program.trim().into(),
            home: home(),
        })
    }

    fn command(&self, uri: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--quiet", "--norc", uri])
            .env("HOME", self.home.path())
            .stdin(Stdio::null());
        command
    }

    /// The value of a block's last expression.
    pub fn value(&self, uri: &str, code: &str) -> Value {
        let output = self
            .command(uri)
            .args(["--json=relaxed", "--eval", code])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}{text}\nof\n{code}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {error}{text}\nof\n{code}"))
    }

    /// What it prints when somebody pastes this.
    pub fn paste(&self, uri: &str, text: &str) -> String {
        let mut child = self
            .command(uri)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        format!("{}{error}", String::from_utf8_lossy(&output.stdout))
    }
}
