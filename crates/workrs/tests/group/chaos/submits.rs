//! The jobs of the chaos test, and their user, who tries any node again and again until one has taken a job.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use crate::{
    harness::Client,
    host::tell,
    programs::{self, Pace, Program},
    tools::Random,
};

/// A node that has not answered by then is given up and another one asked.
const PATIENCE_WITH_ONE: Duration = Duration::from_secs(10);
/// A submit must be through by then: much longer than anything lasts.
const PATIENCE_WITH_ALL: Duration = Duration::from_secs(180);

/// A job, and when it is handed over.
pub struct Submit {
    pub at: Duration,
    pub id: String,
    pub program: Program,
    /// Which node is asked first.
    first: usize,
    interval: u64,
}

/// Jobs of all kinds, none as long as another, handed over one after the other within `length`.
pub fn draw(random: &mut Random, count: usize, length: Duration) -> Vec<Submit> {
    let kinds = [
        programs::count,
        programs::pipeline,
        programs::threads,
        programs::sqlite,
        programs::children,
        programs::sockets,
        programs::memory,
    ];
    let submit = |number: usize| Submit {
        at: length.mul_f64(number as f64 / count as f64),
        id: format!("chaos-{number:02}"),
        // Half a minute of pauses at most, and each job has a number of steps of its own, so that no two logs are alike.
        program: kinds[number % kinds.len()]().at(Pace {
            steps: 30 + 2 * number as u32,
            pause: random.between(8, 14) as f64 / 100.0,
            megabytes: 8,
        }),
        first: random.below(99) as usize,
        interval: random.between(1, 3),
    };
    (0..count).map(submit).collect()
}

/// Hands all over, each when its time has come.
pub fn submit_all(submits: &[Submit], client: &Client, servers: &[String]) {
    let began = Instant::now();
    for submit in submits {
        thread::sleep(submit.at.saturating_sub(began.elapsed()));
        let asked = Instant::now();
        let mut tries = submit.first..;
        let taken = tries.any(|node| {
            assert!(asked.elapsed() < PATIENCE_WITH_ALL, "no node takes job {}", submit.id);
            let is_taken = submit.try_at(client, &servers[node % servers.len()]);
            if !is_taken {
                thread::sleep(Duration::from_millis(200));
            }
            is_taken
        });
        assert!(taken);
        let (times, took) = (tries.start - submit.first, asked.elapsed().as_secs_f64());
        if times > 1 {
            tell(&format!("         {} was taken at try {times}, after {took:.1} s", submit.id));
        }
    }
}

impl Submit {
    /// Whether this node says that it has the job. If it does not, the job may be there all the same.
    fn try_at(&self, client: &Client, server: &str) -> bool {
        let interval = format!("every={}s", self.interval);
        let mut arguments =
            vec!["submit", "--json", "--disk", "32M", "--memory", "128M", "--cpus", "1", "--id", &self.id];
        let own = self.program.arguments(&interval);
        // The sizes above are this test's: its jobs are small.
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let own = match own.iter().position(|argument| *argument == "--disk") {
            Some(at) => [&own[..at], &own[at + 2..]].concat(),
            None => own,
        };
        arguments.extend(own);
        let mut command = client.command(server, &arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.success();
            }
            if began.elapsed() > PATIENCE_WITH_ONE {
                child.kill().unwrap();
                child.wait().unwrap();
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
