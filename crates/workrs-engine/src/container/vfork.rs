//! Processes that have just made a child which is to start a program, and wait until it has (`vfork`, and `clone` with
//! `CLONE_VFORK`, as shells and Python do). Frozen within that wait, such a process cannot be seized: CRIU tries for ten
//! seconds and gives up. The wait takes less than a millisecond, so a freeze at another moment helps.

use std::fs;

use rustix::process::Pid;

/// `clone`, `vfork` and `clone3`: none of them takes any time but for that wait.
#[cfg(target_arch = "x86_64")]
const CALLS: [&str; 3] = ["56", "58", "435"];
#[cfg(not(target_arch = "x86_64"))]
const CALLS: [&str; 2] = ["220", "435"];

/// Whether a thread of these frozen processes waits so.
pub(crate) fn is_under_way(processes: &[Pid]) -> bool {
    processes.iter().any(|process| {
        let threads = fs::read_dir(format!("/proc/{}/task", process.as_raw_pid())).into_iter().flatten().flatten();
        threads
            .into_iter()
            .any(|thread| is_such_a_call(&fs::read_to_string(thread.path().join("syscall")).unwrap_or_default()))
    })
}

/// Whether a thread is in one of these calls, by its `/proc/<pid>/syscall`: the call's number comes first.
fn is_such_a_call(syscall: &str) -> bool {
    syscall.split(' ').next().is_some_and(|number| CALLS.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_by_its_number() {
        let number = CALLS[0];
        assert!(is_such_a_call(&format!("{number} 0x4111 0x0 0x0 0x0 0x0 0x0 0x7ffe 0x7f00\n")));
        assert!(!is_such_a_call("230 0x0 0x0 0x7ffe 0x7ffe 0x0 0x0 0x7ffe 0x7f00\n"));
        assert!(!is_such_a_call("running\n") && !is_such_a_call("-1 0x7ffe 0x7f00\n") && !is_such_a_call(""));
    }
}
