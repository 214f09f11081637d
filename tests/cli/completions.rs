//! `completions`: each shell's script, and bash's in bash.

use std::process::Command;

use crate::support::{Bench, succeeded, text};

#[test]
fn each_shell_has_a_script_that_names_the_commands() {
    let bench = Bench::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = succeeded(&bench.run(&["completions", shell]));
        for command in ["check-config", "dead-letters", "healthcheck", "completions"] {
            assert!(script.contains(command), "{shell} does not name {command}");
        }
    }
    let unknown = bench.run(&["completions", "tcl"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("zsh"), "{unknown:?}");
}

/// Bash takes the script, and completes a command and an option by it.
#[test]
fn bash_completes_by_the_script() {
    let bench = Bench::new();
    let script = succeeded(&bench.run(&["completions", "bash"]));
    bench.write("completions", &script);
    let bash = |commands: &str| {
        let run = Command::new("bash")
            .args(["--norc", "-c", commands])
            .current_dir(bench.folder.path())
            .output();
        succeeded(&run.unwrap())
    };
    bash("bash -n completions");
    assert!(bash("source completions; complete -p im-callback").contains("im-callback"));
    let complete = |words: &str| {
        bash(&format!(
            "source completions; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             f=$(complete -p im-callback | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
             $f im-callback \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             echo \"${{COMPREPLY[@]}}\""
        ))
    };
    assert_eq!(complete("im-callback health"), "healthcheck\n");
    assert_eq!(complete("im-callback send --conn"), "--connections\n");
}
