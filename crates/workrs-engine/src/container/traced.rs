//! Whether somebody outside of a container holds its processes by `ptrace`, as CRIU does during a dump.

use std::fs;

use rustix::process::Pid;

/// Whether one of these, all processes of a container, is traced by a process that is none of them.
pub(crate) fn from_outside(processes: &[Pid]) -> bool {
    processes.iter().any(|process| {
        let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_pid())).unwrap_or_default();
        tracer(&status).is_some_and(|tracer| !processes.contains(&tracer))
    })
}

fn tracer(status: &str) -> Option<Pid> {
    let number = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    // 0 is nobody.
    Pid::from_raw(number.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracer_is_read_from_the_status() {
        assert_eq!(tracer("Name:\tx\nTracerPid:\t0\nUid:\t0\n"), None);
        assert_eq!(tracer("Name:\tx\nTracerPid:\t42\nUid:\t0\n"), Pid::from_raw(42));
        assert_eq!(tracer(""), None);
        assert!(!from_outside(&[rustix::process::getpid()]));
    }
}
