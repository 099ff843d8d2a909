//! Compiles the jobs' init: one source file without dependencies, linked statically so that it runs in any root.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=init/main.rs");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let output = PathBuf::from(variable("OUT_DIR")).join("workrs-init");
    let status = Command::new(variable("RUSTC"))
        .args(["--edition", "2024", "--crate-name", "workrs_init", "--crate-type", "bin"])
        .args(["--target", &variable("TARGET"), "-C", "opt-level=s", "-C", "panic=abort"])
        .args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static", "-C", "strip=symbols"])
        .arg("-o")
        .arg(&output)
        .arg("init/main.rs")
        .status();
    match status {
        Ok(status) if status.success() => (),
        Ok(status) => panic!("compiling init/main.rs failed ({status}); it needs a static libc (package libc6-dev)"),
        Err(error) => panic!("failed to run rustc for init/main.rs: {error}"),
    }
}
