//! May this process do what the engine does?

use super::{Finding, Need};

/// Bit of CAP_SYS_ADMIN in the capability sets of `/proc/self/status`.
const SYS_ADMIN: u32 = 21;

pub(super) fn check() -> Finding {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = rustix::process::geteuid().is_root();
    if root && has_sys_admin(&status) {
        return Finding::ok("rights", Need::Run, "root with CAP_SYS_ADMIN");
    }
    let (detail, hint) = if root {
        (
            "root, but CAP_SYS_ADMIN is withheld",
            "use a virtual machine, or a privileged container (docker run --privileged)",
        )
    } else {
        ("not root", "run it as root, e.g. with sudo or as a system service")
    };
    Finding::missing("rights", Need::Run, detail, hint)
}

fn has_sys_admin(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> SYS_ADMIN & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_counts() {
        assert!(has_sys_admin("CapPrm:\t0\nCapEff:\t000001fffeffffff\n"));
        assert!(!has_sys_admin("CapEff:\t00000000a80425fb\nCapBnd:\t000001fffeffffff\n"), "Docker's default set");
        assert!(!has_sys_admin(""));
    }
}
