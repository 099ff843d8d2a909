//! What the engine's helper processes do. They are this same executable, called as `<helper> internal <verb> …`.

use std::path::Path;

#[cfg(feature = "docker")]
use crate::docker;
use crate::runc;

/// Does what `verb` says and gives the exit code. Must be called before threads are started or files opened.
///
/// | verb | arguments | what |
/// |---|---|---|
/// | `guard` | cgroup, runc's root | ends the node's jobs when standard input closes without a farewell |
/// | `runtime` | as for `runc` | what a Docker daemon calls in place of `runc` |
/// | `lo-up` | | OCI hook: brings `lo` up in the container whose state is on standard input |
pub fn internal(verb: &str, args: &[String]) -> Result<i32, String> {
    match (verb, args) {
        ("guard", [cgroup, runc_root]) => runc::guard(cgroup, Path::new(runc_root)),
        ("lo-up", []) => runc::lo_up(),
        #[cfg(feature = "docker")]
        ("runtime", args) => docker::runtime::runtime(args),
        _ => Err(format!("no internal command {verb:?} with {} arguments", args.len())),
    }
}
