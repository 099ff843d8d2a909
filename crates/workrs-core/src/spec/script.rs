//! How a single handed-over file is run: by its first bytes, then by its extension.

/// A file that Workrs does not know how to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScript {
    /// Nothing in it.
    #[error("{0:?} is empty")]
    Empty(String),
    /// Neither an ELF program, nor `#!`, nor a known extension.
    #[error(
        "do not know how to run {0:?}: it is no ELF program, does not start with #! and has no known extension ({extensions}); \
         give a command instead",
        extensions = known_extensions()
    )]
    UnknownKind(String),
}

/// What runs files of an extension: a program and its arguments before the file.
const INTERPRETERS: [(&str, &[&str]); 16] = [
    ("py", &["python3"]),
    ("sh", &["sh"]),
    ("bash", &["bash"]),
    ("js", &["node"]),
    ("mjs", &["node"]),
    ("cjs", &["node"]),
    ("pl", &["perl"]),
    ("rb", &["ruby"]),
    ("php", &["php"]),
    ("lua", &["lua"]),
    ("r", &["Rscript"]),
    ("jl", &["julia"]),
    ("tcl", &["tclsh"]),
    ("awk", &["awk", "-f"]),
    ("java", &["java"]),
    ("exs", &["elixir"]),
];

fn known_extensions() -> String {
    INTERPRETERS.iter().map(|(extension, _)| format!(".{extension}")).collect::<Vec<_>>().join(", ")
}

/// The command that runs the file `name` in `/job`, given its first bytes (at least 4 where it has them).
pub fn command_for_script(name: &str, head: &[u8], arguments: &[String]) -> Result<Vec<String>, InvalidScript> {
    if head.is_empty() {
        return Err(InvalidScript::Empty(name.to_owned()));
    }
    let itself = format!("./{name}");
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    let interpreter = INTERPRETERS.iter().find(|(known, _)| extension.as_deref() == Some(known));
    let starts_itself = head.starts_with(b"\x7fELF") || head.starts_with(b"#!");
    let mut command = match interpreter {
        // A `#!` line tells sh from bash; Python's often names a `python` that hosts do not have.
        Some((extension, interpreter)) if !starts_itself || *extension == "py" => {
            interpreter.iter().map(|word| (*word).to_owned()).chain([itself]).collect()
        }
        _ if starts_itself => vec![itself],
        _ => return Err(InvalidScript::UnknownKind(name.to_owned())),
    };
    command.extend_from_slice(arguments);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, head: &[u8], expect: &[&str]) {
        let command = command_for_script(name, head, &["-v".to_owned()]).unwrap();
        assert_eq!(command, expect, "{name}");
    }

    #[test]
    fn files_are_run_by_what_they_are() {
        check("train.py", b"import os", &["python3", "./train.py", "-v"]);
        check("run.SH", b"echo", &["sh", "./run.SH", "-v"]);
        check("run.sh", b"#!/bin/bash", &["./run.sh", "-v"]);
        check("tool.py", b"#!/usr/bin/python", &["python3", "./tool.py", "-v"]);
        check("model.R", b"x <- 1", &["Rscript", "./model.R", "-v"]);
        check("sum.awk", b"{ s += $1 }", &["awk", "-f", "./sum.awk", "-v"]);
        check("sum.awk", b"#!/usr/bin/gawk -f", &["./sum.awk", "-v"]);
        check("Count.java", b"class Count", &["java", "./Count.java", "-v"]);
        check("job.php", b"<?php", &["php", "./job.php", "-v"]);
        check("job.lua", b"print(1)", &["lua", "./job.lua", "-v"]);
        check("job.tcl", b"puts 1", &["tclsh", "./job.tcl", "-v"]);
        check("prog", b"\x7fELF\x02", &["./prog", "-v"]);
        assert!(matches!(command_for_script("notes.txt", b"hello", &[]), Err(InvalidScript::UnknownKind(_))));
        assert!(matches!(command_for_script("a.py", b"", &[]), Err(InvalidScript::Empty(_))));
    }
}
