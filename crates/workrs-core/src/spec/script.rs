//! How a single handed-over file is run: by its first bytes, then by its extension.

/// A file that Workrs does not know how to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScript {
    /// Nothing in it.
    #[error("{0:?} is empty")]
    Empty(String),
    /// Neither an ELF program, nor `#!`, nor a known extension.
    #[error(
        "do not know how to run {0:?}: it is no ELF program, does not start with #! and has no known extension (.py, .sh, .js, .pl, .rb); give a command instead"
    )]
    UnknownKind(String),
}

const INTERPRETERS: [(&str, &str); 7] = [
    ("py", "python3"),
    ("sh", "sh"),
    ("js", "node"),
    ("mjs", "node"),
    ("pl", "perl"),
    ("rb", "ruby"),
    ("bash", "bash"),
];

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
        Some((_, interpreter)) if !starts_itself || *interpreter == "python3" => {
            vec![(*interpreter).to_owned(), itself]
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
        check("prog", b"\x7fELF\x02", &["./prog", "-v"]);
        assert!(matches!(command_for_script("notes.txt", b"hello", &[]), Err(InvalidScript::UnknownKind(_))));
        assert!(matches!(command_for_script("a.py", b"", &[]), Err(InvalidScript::Empty(_))));
    }
}
