//! The first process of every job: `init <status file> <program> [arguments]`.
//!
//! It starts the program, reaps what the job leaves behind, passes signals on to the program and notes in the status
//! file how things stand: `running`, then `exit <code>` or `signal <number>`, or `cannot-start <why>`. The file is
//! replaced, never rewritten, so that a reader sees one line or the other. When init ends, the kernel ends the rest
//! of the job. Standard library only: it lies on the job disk, and a checkpoint of it must be restorable years later.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::ErrorKind,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, exit},
};

/// Exit code where the program cannot be started, as shells have it.
const CANNOT_START: i32 = 127;
const USAGE: i32 = 64;

fn main() {
    let mut arguments = env::args_os().skip(1);
    let (Some(status), Some(program)) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        exit(USAGE);
    };
    let end = run(&status, &program, &arguments.collect::<Vec<_>>());
    exit(end);
}

fn run(status: &Path, program: &OsStr, arguments: &[OsString]) -> i32 {
    kernel::pass_signals_on();
    // A process group of its own, so that `kill 0` in the job does not come back through here.
    let started = Command::new(program).args(arguments).process_group(0).spawn();
    let child = match started {
        Ok(child) => child.id().cast_signed(),
        Err(error) => {
            note(status, &format!("cannot-start {}: {}", program.to_string_lossy(), reason(&error)));
            return CANNOT_START;
        }
    };
    kernel::set_child(child);
    note(status, "running");
    loop {
        match kernel::wait() {
            Some((pid, end)) if pid == child => {
                let (line, code) = match end {
                    kernel::End::Exit(code) => (format!("exit {code}"), code),
                    kernel::End::Signal(signal) => (format!("signal {signal}"), 128 + signal),
                };
                note(status, &line);
                return code;
            }
            Some(_orphan) => (),
            None => return 1,
        }
    }
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "not found (or its interpreter is not)".to_owned(),
        ErrorKind::PermissionDenied => "permission denied (is it executable?)".to_owned(),
        _ => error.to_string(),
    }
}

/// Replaces the status file. On a full disk there is no room for a new file, but the old one's block may do.
fn note(status: &Path, line: &str) {
    let fresh = status.with_extension("new");
    let replaced = fs::write(&fresh, line).and_then(|()| fs::rename(&fresh, status));
    if replaced.is_err() {
        let _nobody_to_tell = fs::write(status, line);
    }
}

/// The few calls that the standard library lacks.
mod kernel {
    #![allow(unsafe_code)]

    use std::sync::atomic::{AtomicI32, Ordering};

    pub enum End {
        Exit(i32),
        Signal(i32),
    }

    /// HUP, INT, QUIT, USR1, USR2, TERM, CONT and WINCH, by their numbers on x86-64 and arm64.
    const PASSED_ON: [i32; 8] = [1, 2, 3, 10, 12, 15, 18, 28];
    const EINTR: i32 = 4;
    const SIG_ERR: usize = usize::MAX;

    /// The program's process; 0 before it is started.
    static CHILD: AtomicI32 = AtomicI32::new(0);
    /// A signal that came before; 0 if none did.
    static EARLY: AtomicI32 = AtomicI32::new(0);

    unsafe extern "C" {
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        fn kill(pid: i32, signal: i32) -> i32;
        fn signal(signal: i32, handler: extern "C" fn(i32)) -> usize;
    }

    extern "C" fn pass_on(number: i32) {
        match CHILD.load(Ordering::SeqCst) {
            0 => EARLY.store(number, Ordering::SeqCst),
            // SAFETY: kill takes two numbers and may be called in a signal handler.
            child => _ = unsafe { kill(child, number) },
        }
    }

    pub fn pass_signals_on() {
        for number in PASSED_ON {
            // SAFETY: the handler touches atomics and calls kill only, both allowed in a handler.
            let before = unsafe { signal(number, pass_on) };
            debug_assert_ne!(before, SIG_ERR);
        }
    }

    pub fn set_child(child: i32) {
        CHILD.store(child, Ordering::SeqCst);
        match EARLY.swap(0, Ordering::SeqCst) {
            0 => (),
            number => pass_on(number),
        }
    }

    /// Reaps the next process that ended; `None` if there is none left to wait for.
    pub fn wait() -> Option<(i32, End)> {
        loop {
            let mut status = 0;
            // SAFETY: the status is a valid place for the one number that waitpid writes.
            let pid = unsafe { waitpid(-1, &raw mut status, 0) };
            if pid > 0 {
                let signal = status & 0x7f;
                let end = if signal == 0 { End::Exit(status >> 8 & 0xff) } else { End::Signal(signal) };
                return Some((pid, end));
            }
            if std::io::Error::last_os_error().raw_os_error() != Some(EINTR) {
                return None;
            }
        }
    }
}
