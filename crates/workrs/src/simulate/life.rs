//! One job from its start to its end, with its checkpoints, the faults that strike it and what recovery takes.

use workrs_core::plan::model::Costs;

use super::{
    faults::Faults,
    pace::{Pace, Step},
};

/// After so many faults nobody waits for the job any more; its life is cut off there.
const MAX_FAULTS: u64 = 1_000_000;

/// A job and what happens to cost time. The rate of [`Costs`] plays no role: faults come from [`Faults`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct World {
    /// Work and costs.
    pub costs: Costs,
    /// What takes the place of a restore as long as there is no checkpoint.
    pub clean_start: f64,
}

impl World {
    /// A world in which a clean start takes as long as a restore, as in the formulas.
    pub fn new(costs: Costs) -> Self {
        Self { costs: costs.new(), clean_start: costs.new().restore }
    }
}

/// What came of a job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Life {
    /// From start to end.
    pub time: f64,
    /// Faults that struck it.
    pub faults: u64,
    /// Checkpoints that were committed.
    pub checkpoints: u64,
}

/// How far a job is. Positions are work done.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Position {
    /// Now.
    pub now: f64,
    /// At the newest cut, or where the job was restored to.
    pub cut: f64,
    /// At the newest committed checkpoint.
    pub saved: f64,
    /// Whether any cut was ever made.
    pub probed: bool,
}

/// A cut that becomes a checkpoint after some more seconds.
struct Upload {
    cut: f64,
    left: f64,
}

struct Living<'a, P: ?Sized> {
    world: &'a World,
    faults: &'a mut Faults,
    pace: &'a mut P,
    at: Position,
    upload: Option<Upload>,
    life: Life,
}

/// Lets a job run to its end.
pub fn live(world: &World, faults: &mut Faults, pace: &mut (impl Pace + ?Sized)) -> Life {
    let life = Life { time: 0.0, faults: 0, checkpoints: 0 };
    pace.start(world);
    let mut living = Living { world, faults, pace, at: Position::default(), upload: None, life };
    while living.at.now < world.costs.work && living.life.faults < MAX_FAULTS {
        if !living.go_on() {
            living.recover();
        }
    }
    living.life
}

impl<P: Pace + ?Sized> Living<'_, P> {
    /// Lives up to the next event; false if a fault came before it.
    fn go_on(&mut self) -> bool {
        let to_end = self.world.costs.work - self.at.now;
        let wait = self.upload.as_ref().map(|upload| upload.left);
        // While an upload is in flight no other checkpoint begins.
        let step = if wait.is_some() { Step::Run(f64::INFINITY) } else { self.pace.next(&self.at) };
        let until = match step {
            Step::Run(time) | Step::Checkpoint(time) => time.min(wait.unwrap_or(f64::INFINITY)),
        };
        if to_end <= until {
            let alive = self.pass(to_end);
            if alive {
                self.at.now = self.world.costs.work;
            }
            return alive;
        }
        if !self.pass(until) {
            return false;
        }
        self.at.now += until;
        if self.upload.is_some() {
            self.commit();
            return true;
        }
        matches!(step, Step::Run(_)) || self.checkpoint()
    }

    fn checkpoint(&mut self) -> bool {
        self.at.probed = true;
        if !self.pass(self.world.costs.checkpoint) {
            return false;
        }
        self.at.cut = self.at.now;
        self.upload = Some(Upload { cut: self.at.now, left: self.world.costs.latency });
        if self.world.costs.latency == 0.0 {
            self.commit();
        }
        true
    }

    fn commit(&mut self) {
        if let Some(upload) = self.upload.take() {
            self.at.saved = upload.cut;
            self.life.checkpoints += 1;
        }
    }

    /// Brings the job back after a fault, however many others strike meanwhile.
    fn recover(&mut self) {
        self.upload = None;
        let restore = if self.life.checkpoints > 0 { self.world.costs.restore } else { self.world.clean_start };
        loop {
            self.life.time += self.world.costs.detection;
            if self.pass(restore) || self.life.faults >= MAX_FAULTS {
                break;
            }
        }
        (self.at.now, self.at.cut) = (self.at.saved, self.at.saved);
    }

    /// Lets time pass in which the node is up; false if it fails meanwhile.
    fn pass(&mut self, time: f64) -> bool {
        let passed = self.faults.pass(time);
        let up = passed.err().unwrap_or(time);
        self.life.time += up;
        self.life.faults += u64::from(passed.is_err());
        self.pace.saw(up, passed.is_err());
        passed.is_ok()
    }
}
