//! Which system calls a job may make: the list that containers commonly get, without the calls that no capability
//! opens here, and without io_uring, userfaultfd, perf_event_open, memfd_secret (CRIU cannot capture them, or they
//! are a common way into the kernel) and new namespaces.

use serde_json::{Value, json};

const LIST: &str = include_str!("seccomp.json");
/// Every flag of clone that makes a new namespace.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
const AF_VSOCK: u64 = 40;
/// What personality may be asked for: Linux, 32 bit, no randomisation of addresses, both, and "tell me".
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The `linux.seccomp` of a container on this architecture.
pub(super) fn profile() -> Value {
    profile_for(std::env::consts::ARCH)
}

fn profile_for(arch: &str) -> Value {
    let list: Value = serde_json::from_str(LIST).unwrap_or_default();
    let names = |key: &str| -> Vec<String> {
        let lines = list[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let mut allowed = names("allow");
    allowed.extend(names(&format!("allow_{arch}")));
    // Compiling the list takes a start 8-10 ms for each of them. X32 is left out: distributions turn it off, and CRIU
    // cannot dump it.
    let architectures = match arch {
        "x86_64" => json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]),
        "aarch64" => json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        _ => json!([]),
    };
    let when = |name: &str, value: u64, operator: &str| json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": value, "op": operator }] });
    let mut rules = vec![
        json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" }),
        // valueTwo is what must remain under the mask: nothing.
        json!({ "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
            { "index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }
        ] }),
        // Its flags lie in memory where no filter sees them; libraries then fall back to clone.
        json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }),
        when("socket", AF_VSOCK, "SCMP_CMP_NE"),
    ];
    rules.extend(PERSONALITIES.map(|persona| when("personality", persona, "SCMP_CMP_EQ")));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM, "architectures": architectures, "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_checkpoints_and_safety_forbid_is_not_allowed() {
        for arch in ["x86_64", "aarch64"] {
            let profile = profile_for(arch);
            let allowed = profile["syscalls"][0]["names"].as_array().unwrap();
            let allows = |name: &str| allowed.iter().any(|one| one == name);
            assert!(allowed.len() > 300 && allows("read") && allows("execve") && allows("futex"));
            for forbidden in [
                "io_uring_setup",
                "io_uring_enter",
                "userfaultfd",
                "perf_event_open",
                "memfd_secret",
                "unshare",
                "setns",
                "clone",
                "clone3",
                "mount",
                "bpf",
                "keyctl",
                "add_key",
                "kexec_load",
                "open_by_handle_at",
                "chroot",
            ] {
                assert!(!allows(forbidden), "{forbidden} on {arch}");
            }
            assert_eq!(allows("arch_prctl"), arch == "x86_64");
        }
    }
}
