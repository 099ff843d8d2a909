//! Processes that have ended and that their parent has not waited for yet. CRIU (up to 4.2.1, `restore_one_zombie`)
//! brings them back with seven of the eight bits of their exit code: 180 would be 52 after a restore, and the parent
//! would take another way than it would have. Such a moment is no moment for a checkpoint.

use std::{fs, path::Path};

use rustix::process::Pid;

/// The first exit code of 128 or more that a child of these frozen processes has left.
pub(crate) fn code_that_would_change(processes: &[Pid]) -> Option<u8> {
    processes.iter().find_map(|process| {
        let threads = fs::read_dir(format!("/proc/{}/task", process.as_raw_pid())).into_iter().flatten().flatten();
        threads.into_iter().find_map(|thread| code_among_children(&thread.path()))
    })
}

fn code_among_children(thread: &Path) -> Option<u8> {
    let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
    children.split_whitespace().find_map(|child| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        exit_code_of_zombie(&stat).filter(|code| *code >= 128)
    })
}

/// The code with which a zombie exited, from its `/proc/<pid>/stat`: the third and the last column.
fn exit_code_of_zombie(stat: &str) -> Option<u8> {
    let after_name = stat.rsplit_once(") ")?.1;
    let status: u32 = after_name.split_whitespace().next_back()?.parse().ok()?;
    let exited = status & 0x7f == 0;
    (after_name.starts_with('Z') && exited).then_some((status >> 8) as u8)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_zombies_that_exited_have_a_code() {
        let check = |stat: &str, expected| assert_eq!(exit_code_of_zombie(stat), expected, "{stat}");
        check("7 (a) b) Z 1 7 7 0 46080", Some(180));
        check("7 (a) S 1 7 7 0 0", None);
        check("7 (a) Z 1 7 7 0 9", None);
        check("", None);
    }

    #[test]
    fn a_child_that_nobody_waited_for_is_found() {
        let mut child = Command::new("sh").args(["-c", "exit 180"]).spawn().unwrap();
        let me = [Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap()];
        while code_that_would_change(&me).is_none() {
            std::thread::yield_now();
        }
        assert_eq!(code_that_would_change(&me), Some(180));
        child.wait().unwrap();
        assert_eq!(code_that_would_change(&me), None);
    }
}
