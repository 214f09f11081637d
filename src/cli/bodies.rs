//! The bodies that `send` sends: which files, in which order, and what is in them.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use crate::words::counted;

/// A body and where it comes from.
pub type SourcedBody = (String, Vec<u8>);

/// The files to send, and those in folders that are not.
#[derive(Default)]
pub struct Files {
    wanted: Vec<PathBuf>,
    skipped: Vec<PathBuf>,
    /// The folders that were entered, without symbolic links, so that a loop of links ends.
    entered: HashSet<PathBuf>,
}

/// The most skipped files that are named.
const NAMED: usize = 5;

impl Files {
    /// Finds the files of all paths. Folders are searched to the bottom, in the order of names.
    ///
    /// # Errors
    /// When a path does not exist or a folder cannot be read, before anything is sent.
    pub fn find(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut files = Self::default();
        for path in paths {
            if path.as_os_str() == "-" {
                files.wanted.push(path.clone());
                continue;
            }
            let cannot = || format!("cannot read {}", path.display());
            let is_folder = std::fs::metadata(path).with_context(cannot)?.is_dir();
            if is_folder {
                // A folder that is named twice is sent twice.
                files.entered.clear();
                files.search(path)?;
            } else {
                files.wanted.push(path.clone());
            }
        }
        Ok(files)
    }

    fn search(&mut self, folder: &Path) -> anyhow::Result<()> {
        let cannot = || format!("cannot read {}", folder.display());
        if !self
            .entered
            .insert(folder.canonicalize().with_context(cannot)?)
        {
            return Ok(());
        }
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(cannot)? {
            inside.push(entry.with_context(cannot)?.path());
        }
        inside.sort();
        for path in inside {
            if path.is_dir() {
                self.search(&path)?;
            } else if path.is_file() && (is_lines(&path) || has_extension(&path, "json")) {
                self.wanted.push(path);
            } else {
                self.skipped.push(path);
            }
        }
        Ok(())
    }

    /// What was skipped and why, if anything was.
    pub fn skipped(&self) -> Option<String> {
        let skipped = self.skipped.len();
        if skipped == 0 {
            return None;
        }
        let named = self.skipped.iter().take(NAMED);
        let mut names: Vec<_> = named.map(|path| path.display().to_string()).collect();
        if skipped > NAMED {
            names.push("…".to_owned());
        }
        Some(format!(
            "skipped {}, since only .json, .jsonl and .ndjson files are sent from folders: {}",
            counted(skipped, "file"),
            names.join(", "),
        ))
    }

    /// The bodies, read lazily.
    pub fn bodies(self) -> impl Iterator<Item = anyhow::Result<SourcedBody>> + Send + use<> {
        self.wanted.into_iter().flat_map(read)
    }
}

/// Tells somebody who waits that the program does, too.
pub fn tell_of_terminal(what: &str) {
    if std::io::stdin().is_terminal() {
        eprintln!("reading {what} from the terminal; end with Ctrl-D");
    }
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case(wanted))
}

fn is_lines(path: &Path) -> bool {
    has_extension(path, "jsonl") || has_extension(path, "ndjson")
}

fn read(path: PathBuf) -> Box<dyn Iterator<Item = anyhow::Result<SourcedBody>> + Send> {
    let name = path.display().to_string();
    if path.as_os_str() == "-" {
        tell_of_terminal("JSON lines");
        return Box::new(lines(
            "standard input".to_owned(),
            BufReader::new(std::io::stdin()),
        ));
    }
    let cannot = format!("cannot read {name}");
    if is_lines(&path) {
        return match File::open(&path) {
            Ok(file) => Box::new(lines(name, BufReader::new(file))),
            Err(e) => Box::new(std::iter::once(Err(anyhow!(e).context(cannot)))),
        };
    }
    let body = std::fs::read(&path).context(cannot);
    Box::new(std::iter::once(body.map(|body| (name, body))))
}

fn lines(name: String, file: impl BufRead) -> impl Iterator<Item = anyhow::Result<SourcedBody>> {
    let lines = file.split(b'\n').zip(1..);
    lines.filter_map(move |(line, number)| match line {
        Ok(line) if line.trim_ascii().is_empty() => None,
        Ok(line) => Some(Ok((
            format!("{name}:{number}"),
            line.trim_ascii_end().to_vec(),
        ))),
        Err(e) => Some(Err(anyhow!(e).context(format!("cannot read {name}")))),
    })
}
