//! One line a run, in a CSV file that is only appended to.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
};

use anyhow::{Context, bail};

const HEAD: &str = "plan,rate_per_s,work_s,repeat,seed,policy,status,completion_s,faults,checkpoints,standstill_s,\
                    latency_s,restores,restore_s,clean_starts,clean_start_s,detection_s";

/// Which run.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The plan's name.
    pub plan: String,
    /// Faults a second; 0 for those that measure costs.
    pub rate: f64,
    /// Work in seconds.
    pub work: f64,
    /// Counts the runs of the same plan.
    pub repeat: u32,
    /// The experiment's seed.
    pub seed: u64,
}

/// A run that is over. Times are in seconds, those of events are means.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Which run.
    pub key: Key,
    /// The checkpoint policy that was asked for.
    pub policy: String,
    /// Whether the job came to its end; if not, it was given up after `completion` seconds.
    pub finished: bool,
    /// From the job's start to its end.
    pub completion: f64,
    /// How often its node was killed.
    pub faults: u64,
    /// Checkpoints that were committed.
    pub checkpoints: u64,
    /// C: how long the job stood still for one.
    pub standstill: f64,
    /// L: from there to its commit.
    pub latency: f64,
    /// How often the job went on from a checkpoint.
    pub restores: u64,
    /// R: from the node's readiness to the running job.
    pub restore: f64,
    /// How often it began anew.
    pub clean_starts: u64,
    /// From the node's readiness to the running job.
    pub clean_start: f64,
    /// D: from the kill to the node's readiness.
    pub detection: f64,
}

impl Row {
    fn line(&self) -> String {
        let Key { plan, rate, work, repeat, seed } = &self.key;
        let status = if self.finished { "finished" } else { "given up" };
        let Self { policy, completion, faults, checkpoints, standstill, latency, .. } = self;
        let Self { restores, restore, clean_starts, clean_start, detection, .. } = self;
        format!(
            "{plan},{rate},{work},{repeat},{seed},{policy},{status},{completion:.3},{faults},{checkpoints},\
             {standstill:.4},{latency:.4},{restores},{restore:.4},{clean_starts},{clean_start:.4},{detection:.4}"
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(',').collect();
        let &[plan, rate, work, repeat, seed, policy, status, completion, faults, checkpoints, ref rest @ ..] =
            fields.as_slice()
        else {
            return None;
        };
        let &[standstill, latency, restores, restore, clean_starts, clean_start, detection] = rest else { return None };
        Some(Self {
            key: Key {
                plan: plan.to_owned(),
                rate: rate.parse().ok()?,
                work: work.parse().ok()?,
                repeat: repeat.parse().ok()?,
                seed: seed.parse().ok()?,
            },
            policy: policy.to_owned(),
            finished: status == "finished",
            completion: completion.parse().ok()?,
            faults: faults.parse().ok()?,
            checkpoints: checkpoints.parse().ok()?,
            standstill: standstill.parse().ok()?,
            latency: latency.parse().ok()?,
            restores: restores.parse().ok()?,
            restore: restore.parse().ok()?,
            clean_starts: clean_starts.parse().ok()?,
            clean_start: clean_start.parse().ok()?,
            detection: detection.parse().ok()?,
        })
    }
}

/// The file and what is in it.
pub struct Results {
    file: File,
    rows: Vec<Row>,
}

impl Results {
    /// Reads what earlier runs left, if anything. A last line that was cut off is no run.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot use {}", path.display());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(failed)?;
        let mut rows = Vec::new();
        let mut whole = 0;
        let mut reader = BufReader::new(&file);
        for number in 1.. {
            let mut line = String::new();
            let len = reader.read_line(&mut line).with_context(failed)?;
            let Some(text) = line.strip_suffix('\n') else { break };
            if number == 1 && text != HEAD {
                bail!("{} is no result of this version's experiments; name another folder by --out", path.display());
            }
            if number > 1 {
                let Some(row) = Row::parse(text) else { bail!("{}: line {number} is damaged", path.display()) };
                rows.push(row);
            }
            whole += len as u64;
        }
        file.set_len(whole).with_context(failed)?;
        if whole == 0 {
            writeln!(file, "{HEAD}").with_context(failed)?;
        }
        Ok(Self { file, rows })
    }

    /// All runs that are over.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Whether this run is over.
    pub fn has(&self, key: &Key) -> bool {
        self.rows.iter().any(|row| row.key == *key)
    }

    /// Adds a run, durably.
    pub fn add(&mut self, row: Row) -> anyhow::Result<()> {
        writeln!(self.file, "{}", row.line())
            .and_then(|()| self.file.sync_data())
            .context("cannot write the results")?;
        self.rows.push(row);
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn row(plan: &str, rate: f64, repeat: u32) -> Row {
        Row {
            key: Key { plan: plan.to_owned(), rate, work: 30.0, repeat, seed: 1 },
            policy: "every=1s 913ms".to_owned(),
            finished: true,
            completion: 35.5 + f64::from(repeat),
            faults: 2,
            checkpoints: 15,
            standstill: 0.1,
            latency: 0.2,
            restores: 1,
            restore: 0.5,
            clean_starts: 1,
            clean_start: 0.25,
            detection: 1.5,
        }
    }

    #[test]
    fn a_stopped_experiment_goes_on_behind_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.csv");
        let rows = [row("none", 0.131, 0), Row { finished: false, ..row("15", 0.000_1, 3) }];
        let mut results = Results::open(&path).unwrap();
        for row in &rows {
            results.add(row.clone()).unwrap();
        }
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"auto,0.1").unwrap();
        let mut results = Results::open(&path).unwrap();
        assert_eq!(results.rows(), rows);
        assert!(results.has(&rows[0].key) && !results.has(&Key { repeat: 9, ..rows[0].key.clone() }));
        results.add(rows[1].clone()).unwrap();
        assert_eq!(Results::open(&path).unwrap().rows().len(), 3);
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.csv");
        std::fs::write(&path, "my,own,table\n1,2,3\n").unwrap();
        assert!(Results::open(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "my,own,table\n1,2,3\n");
    }
}
