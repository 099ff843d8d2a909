//! Where a checkpoint can be resumed: what it needs of a host, what a node offers, and why the two do not fit.
//!
//! Whatever one side does not say is taken to be all right: records and nodes of before these things were noted must
//! still come together. What only the host itself can compare, the files that a process has mapped, is not judged here.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    id::NodeId,
    job::{CheckpointId, CheckpointMode, MAX_REASON_LEN},
    manifest::RestoreNeeds,
};

/// What a checkpoint needs of the host that it is resumed on, as far as other nodes can judge it: [`RestoreNeeds`] in short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostNeeds {
    /// The engine that captured it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine: String,
    /// The version of that engine's form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<u32>,
    /// The processor architecture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arch: String,
    /// What the processor must be able to do, as the kernel names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "spaced")]
    pub cpu: Vec<String>,
    /// The oldest kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Version>,
    /// The oldest CRIU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub criu: Option<Version>,
}

/// What a node has for those who want to resume there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Its engine.
    pub engine: String,
    /// The oldest and the newest form of captures that its engine can restore; 0 where it does not say.
    pub formats: (u32, u32),
    /// The processor architecture.
    pub arch: String,
    /// What its processor can do, as the kernel names it. Empty where it does not say.
    pub cpu_features: Vec<String>,
    /// The kernel's release.
    pub kernel: String,
    /// CRIU's version.
    pub criu: String,
    /// Why it cannot capture and restore memory, if it cannot.
    pub cannot_dump: Option<String>,
}

/// What a checkpoint needs and a node does not have; the words fit after the node's name and a colon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// It cannot restore memory at all.
    #[error("it cannot restore memory: {0}")]
    Memory(String),
    /// It has another engine.
    #[error("it has the engine {has}, not {needs}")]
    Engine {
        /// The wanted one.
        needs: String,
        /// The node's.
        has: String,
    },
    /// Its engine is too old or too new for the capture's form.
    #[error("its engine reads the formats {0} to {1}, not {needs}", has.0, has.1)]
    Format {
        /// The capture's.
        needs: u32,
        /// The oldest and newest that the node reads.
        has: (u32, u32),
    },
    /// It has another architecture.
    #[error("it is {has}, not {needs}")]
    Arch {
        /// The wanted one.
        needs: String,
        /// The node's.
        has: String,
    },
    /// Its processor can do less.
    #[error("its processor lacks {}", .0.join(" "))]
    Cpu(Vec<String>),
    /// Its kernel is older.
    #[error("its kernel {has} is older than {needs}")]
    Kernel {
        /// The oldest that will do.
        needs: Version,
        /// The node's.
        has: Version,
    },
    /// Its CRIU is older.
    #[error("its CRIU {has} is older than {needs}")]
    Criu {
        /// The oldest that will do.
        needs: Version,
        /// The node's.
        has: Version,
    },
    /// It has tried, or looked closer than others can.
    #[error("it has refused the checkpoint")]
    Declined,
}

impl HostNeeds {
    /// What a checkpoint with these needs asks of other hosts. One of files only needs no more than that its program can be
    /// started again: all engines share the job disk's form.
    pub fn of(mode: CheckpointMode, needs: &RestoreNeeds) -> Self {
        let arch = needs.arch.clone();
        match mode {
            CheckpointMode::Files => Self { arch, ..Self::default() },
            CheckpointMode::Full => Self {
                engine: needs.engine.clone(),
                format: Some(needs.format),
                arch,
                cpu: needs.cpu_features.clone(),
                kernel: Version::of(&needs.kernel),
                criu: Version::of(&needs.criu),
            },
        }
    }

    /// Whether a node with this offer has it all; the first thing that it lacks.
    pub fn met_by(&self, offer: &Offer) -> Result<(), Unmet> {
        if differ(&self.engine, &offer.engine) {
            return Err(Unmet::Engine { needs: self.engine.clone(), has: offer.engine.clone() });
        }
        let (oldest, newest) = offer.formats;
        if let Some(needs) = self.format.filter(|format| newest > 0 && !(oldest..=newest).contains(format)) {
            return Err(Unmet::Format { needs, has: offer.formats });
        }
        if differ(&self.arch, &offer.arch) {
            return Err(Unmet::Arch { needs: self.arch.clone(), has: offer.arch.clone() });
        }
        let lacks: Vec<_> = self.cpu.iter().filter(|feature| !offer.cpu_features.contains(feature)).cloned().collect();
        if !lacks.is_empty() && !offer.cpu_features.is_empty() {
            return Err(Unmet::Cpu(lacks));
        }
        if let Some((needs, has)) = older(self.kernel, &offer.kernel) {
            return Err(Unmet::Kernel { needs, has });
        }
        if let Some((needs, has)) = older(self.criu, &offer.criu) {
            return Err(Unmet::Criu { needs, has });
        }
        Ok(())
    }

    /// What is needed, in words; empty if nothing is.
    pub fn describe(&self) -> String {
        let mut words = Vec::new();
        if !self.engine.is_empty() {
            words.push(format!("engine {}", self.engine));
        }
        if !self.arch.is_empty() {
            words.push(self.arch.clone());
        }
        words.extend(self.kernel.map(|version| format!("kernel {version}")));
        words.extend(self.criu.map(|version| format!("CRIU {version}")));
        if !self.cpu.is_empty() {
            words.push(format!("a processor with {}", self.cpu.join(" ")));
        }
        words.join(", ")
    }
}

fn differ(needs: &str, has: &str) -> bool {
    !needs.is_empty() && !has.is_empty() && needs != has
}

/// Both versions, if the second one is known and older.
fn older(needs: Option<Version>, has: &str) -> Option<(Version, Version)> {
    needs.zip(Version::of(has)).filter(|(needs, has)| has < needs)
}

impl RestoreNeeds {
    /// Notes what a process that runs on a host with this offer needs to be restored elsewhere. What a process that was
    /// itself restored has looked up, it looked up where it was started: it still needs what its `former` checkpoint needed.
    pub fn note_host(&mut self, offer: &Offer, former: Option<&Self>) {
        let newer = |one: &str, other: &str| if Version::of(one) < Version::of(other) { other } else { one }.to_owned();
        let (features, kernel, criu) = match former {
            Some(former) => (former.cpu_features.as_slice(), former.kernel.as_str(), former.criu.as_str()),
            None => (&[][..], "", ""),
        };
        let all: BTreeSet<_> = offer.cpu_features.iter().chain(features).cloned().collect();
        self.cpu_features = all.into_iter().collect();
        self.kernel = newer(&offer.kernel, kernel);
        self.criu = newer(&offer.criu, criu);
    }
}

/// The first two numbers of a version: what is behind them does not decide whether a checkpoint can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Version(u32, u32);

impl Version {
    /// The version in a text such as `6.18.5-amd64` or `4.2`.
    pub fn of(text: &str) -> Option<Self> {
        let mut parts = text.trim().split(|c: char| !c.is_ascii_digit());
        let major = parts.next()?.parse().ok()?;
        Some(Self(major, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::of(&text).ok_or_else(|| format!("{text:?} is no version"))
    }
}

/// Lists of short words as one text, which takes less space in a record.
mod spaced {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(words: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&words.join(" "))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        Ok(String::deserialize(deserializer)?.split_whitespace().map(str::to_owned).collect())
    }
}

/// Says why a job waits that no node can resume. Nodes of the same kind are named together, and as many as a record
/// has space for; `patience` is how long such a job waits, as people write it.
pub fn why_it_waits(checkpoint: CheckpointId, nodes: &[(NodeId, String)], patience: &str) -> String {
    let head = format!("waits for a node that fits checkpoint {checkpoint}: ");
    let tail = format!("; gives that checkpoint up if none comes within {patience}");
    let space = MAX_REASON_LEN.saturating_sub(head.len() + tail.len());
    format!("{head}{}{tail}", name_misfits(nodes, space))
}

/// Which nodes lack what, in at most `space` bytes.
pub fn name_misfits(nodes: &[(NodeId, String)], space: usize) -> String {
    /// Enough for how many nodes are not named.
    const REST: usize = "; 1000000 more".len();
    if nodes.is_empty() {
        return "no other node lives".to_owned();
    }
    let mut alike: Vec<(&str, Vec<&str>)> = Vec::new();
    for (node, lacks) in nodes {
        match alike.iter_mut().find(|(known, _)| known == lacks) {
            Some((_, names)) => names.push(node.as_str()),
            None => alike.push((lacks, vec![node.as_str()])),
        }
    }
    let mut text = String::new();
    let mut left = nodes.len();
    for (lacks, names) in alike {
        let count = names.len();
        let separator = if text.is_empty() { "" } else { "; " };
        let all = format!("{separator}{}: {lacks}", names.join(", "));
        let few = format!("{separator}{} nodes: {lacks}", names.len());
        let fits = |part: &str| text.len() + part.len() + if left > count { REST } else { 0 } <= space;
        let Some(part) = [all, few].into_iter().find(|part| fits(part)) else { continue };
        text += &part;
        left -= count;
    }
    match (left, text.is_empty()) {
        (0, _) => text,
        (_, true) => format!("{left} live, none fits"),
        (_, false) => format!("{text}; {left} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;

    fn offer() -> Offer {
        Offer {
            engine: "runc".into(),
            formats: (1, 2),
            arch: "x86_64".into(),
            cpu_features: ["aes", "avx", "avx2"].map(str::to_owned).to_vec(),
            kernel: "6.1.0-18-amd64".into(),
            criu: "4.2.1".into(),
            cannot_dump: None,
        }
    }

    fn needs() -> HostNeeds {
        let mut needs =
            RestoreNeeds { engine: "runc".into(), format: 2, arch: "x86_64".into(), ..RestoreNeeds::default() };
        needs.note_host(&offer(), None);
        HostNeeds::of(CheckpointMode::Full, &needs)
    }

    #[test]
    fn a_checkpoint_fits_where_nothing_is_missing_that_it_may_rely_on() {
        let check = |change: &dyn Fn(&mut Offer), expect: Result<(), &str>| {
            let mut offer = offer();
            change(&mut offer);
            assert_eq!(needs().met_by(&offer).map_err(|unmet| unmet.to_string()), expect.map_err(str::to_owned));
        };
        check(&|_| (), Ok(()));
        check(&|o| o.cpu_features.push("avx512f".into()), Ok(()));
        check(&|o| o.kernel = "6.18".into(), Ok(()));
        check(&|o| o.kernel = "6.1.0-1-other".into(), Ok(()));
        check(&|o| o.formats = (2, 5), Ok(()));
        check(&|o| o.engine = "docker".into(), Err("it has the engine docker, not runc"));
        check(&|o| o.formats = (3, 4), Err("its engine reads the formats 3 to 4, not 2"));
        check(&|o| o.formats = (1, 1), Err("its engine reads the formats 1 to 1, not 2"));
        check(&|o| o.arch = "aarch64".into(), Err("it is aarch64, not x86_64"));
        check(&|o| o.cpu_features = vec!["avx".into()], Err("its processor lacks aes avx2"));
        check(&|o| o.kernel = "5.19.17".into(), Err("its kernel 5.19 is older than 6.1"));
        check(&|o| o.criu = "4.1".into(), Err("its CRIU 4.1 is older than 4.2"));
    }

    #[test]
    fn what_one_side_does_not_say_keeps_nobody_apart() {
        assert_eq!(needs().met_by(&Offer::default()), Ok(()));
        assert_eq!(HostNeeds::default().met_by(&offer()), Ok(()));
        assert_eq!(HostNeeds::default().describe(), "");
        assert_eq!(serde_json::to_string(&HostNeeds::default()).unwrap(), "{}");
    }

    #[test]
    fn a_checkpoint_of_files_needs_no_engine_and_no_processor() {
        let full = RestoreNeeds { engine: "runc".into(), format: 2, arch: "x86_64".into(), ..RestoreNeeds::default() };
        let needs = HostNeeds::of(CheckpointMode::Files, &full);
        assert_eq!(needs.met_by(&Offer { engine: "docker".into(), criu: String::new(), ..offer() }), Ok(()));
        assert!(needs.met_by(&Offer { arch: "aarch64".into(), ..offer() }).is_err());
    }

    #[test]
    fn a_restored_process_needs_what_it_found_where_it_was_started() {
        let mut first = RestoreNeeds::default();
        let old = Offer { cpu_features: vec!["avx".into(), "sse4_2".into()], kernel: "6.18".into(), ..offer() };
        first.note_host(&old, None);
        let mut second = RestoreNeeds::default();
        second.note_host(&offer(), Some(&first));
        assert_eq!(second.cpu_features, ["aes", "avx", "avx2", "sse4_2"]);
        assert_eq!((second.kernel.as_str(), second.criu.as_str()), ("6.18", "4.2.1"));
    }

    #[test]
    fn needs_survive_their_written_form() {
        let text = serde_json::to_string(&needs()).unwrap();
        assert_eq!(serde_json::from_str::<HostNeeds>(&text).unwrap(), needs());
        assert!(text.contains(r#""cpu":"aes avx avx2","kernel":"6.1","criu":"4.2""#), "{text}");
        assert_eq!(needs().describe(), "engine runc, x86_64, kernel 6.1, CRIU 4.2, a processor with aes avx avx2");
        assert_eq!((Version::of(""), Version::of("GitID"), Version::of("7")), (None, None, Some(Version(7, 0))));
    }

    #[test]
    fn a_reason_to_wait_names_as_many_nodes_as_it_has_space_for() {
        let checkpoint = CheckpointId { epoch: Epoch(1), seq: 3 };
        let node = |name: &str, lacks: &str| (NodeId::new(name).unwrap(), lacks.to_owned());
        let check = |nodes: &[(NodeId, String)], expect: &str| {
            let reason = why_it_waits(checkpoint, nodes, "10m");
            assert!(reason.len() <= MAX_REASON_LEN, "{reason}");
            assert!(reason.ends_with("; gives that checkpoint up if none comes within 10m"), "{reason}");
            assert!(reason.contains(expect), "{reason}");
        };
        let lacks = "its processor lacks avx2";
        check(&[node("a", lacks), node("b", lacks)], "fits checkpoint 1-3: a, b: its processor lacks avx2; gives");
        check(&[node("a", lacks), node("b", "it is full")], ": a: its processor lacks avx2; b: it is full; gives");
        let many: Vec<_> = (0..100).map(|n| node(&format!("node-{n}"), lacks)).collect();
        check(&many, ": 100 nodes: its processor lacks avx2; gives");
        check(&[node("a", &"x".repeat(300)), node("b", lacks)], ": b: its processor lacks avx2; 1 more; gives");
        check(&[node("a", &"x".repeat(300))], ": 1 live, none fits; gives");
        check(&[], ": no other node lives; gives");
    }
}
