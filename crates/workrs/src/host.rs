//! What tells this machine from others: an id that lies in its data folder, and what its processor can do.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::Path,
};

use anyhow::Context;
use workrs_store::fresh;

const FILE: &str = "host-id";
/// Beginnings of the kernel's names for what programs look up and then rely on.
const NOTABLE: [&str; 15] = [
    "sse3", "ssse3", "sse4", "popcnt", "aes", "pclmul", "avx", "f16c", "fma", "bmi", "amx", "sha", "sve", "asimd",
    "crc32",
];

/// The data folder's id, drawn at its first use. It stays the same when the node gets another name or address.
pub fn id(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join(FILE);
    let failed = || format!("cannot use {}", path.display());
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(failed),
    }
    let id = fresh::id();
    let new = data_dir.join(format!("{FILE}.new"));
    let write = || {
        let mut file = std::fs::File::create(&new)?;
        file.write_all(id.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        std::fs::File::open(data_dir)?.sync_all()
    };
    write().with_context(failed)?;
    Ok(id)
}

/// The label by which an operator says what the processor can do, instead of what is found out.
pub const CPU_FEATURES_LABEL: &str = "cpu-features";

/// The kernel's release.
pub fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// What this processor can do beyond the base of its architecture, as the kernel names it, sorted; or what a node with these
/// labels is to say of it.
pub fn cpu_features(labels: &BTreeMap<String, String>) -> Vec<String> {
    if let Some(list) = labels.get(CPU_FEATURES_LABEL) {
        let features: BTreeSet<_> = list.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty()).collect();
        return features.into_iter().map(str::to_owned).collect();
    }
    features_in(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

fn features_in(cpuinfo: &str) -> Vec<String> {
    let is_list = |line: &&str| line.starts_with("flags") || line.starts_with("Features");
    let list = cpuinfo.lines().find(is_list).and_then(|line| line.split_once(':')).map_or("", |(_, list)| list);
    let is_notable = |name: &&str| NOTABLE.iter().any(|beginning| name.starts_with(beginning));
    let mut features: Vec<_> = list.split_whitespace().filter(is_notable).map(str::to_owned).collect();
    features.sort();
    features.dedup();
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_keeps_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let first = id(folder.path()).unwrap();
        assert_eq!(id(folder.path()).unwrap(), first);
        assert_ne!(id(tempfile::tempdir().unwrap().path()).unwrap(), first);
    }

    #[test]
    fn a_label_says_what_the_processor_can_do() {
        let labels = BTreeMap::from([(CPU_FEATURES_LABEL.to_owned(), "avx2, avx,,avx".to_owned())]);
        assert_eq!(cpu_features(&labels), ["avx", "avx2"]);
    }

    #[test]
    fn features_are_read_from_the_first_processor() {
        let text = "processor: 0\nflags\t\t: fpu sse4_2 avx2 lm avx\n\nprocessor: 1\nflags\t: sse4_2\n";
        assert_eq!(features_in(text), ["avx", "avx2", "sse4_2"]);
        assert!(features_in("").is_empty());
    }
}
