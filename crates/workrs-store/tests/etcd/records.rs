//! Job records in etcd whose answers are lost, one after the other.

use workrs_core::{
    id::{Epoch, Incarnation, JobId, NodeId, Owner, Timestamp},
    job::{Holder, JobEvent, JobRecord, Outcome},
    spec::JobSpec,
};
use workrs_store::{
    faulty::Fault,
    fresh,
    records::{RecordError, Records},
};

use super::*;

const AT: Timestamp = Timestamp::from_millis(5);

#[derive(Debug, Clone, Copy)]
enum Step {
    Submit,
    Claim,
    Finish,
    Delete,
}

impl Step {
    const ALL: [Self; 4] = [Self::Submit, Self::Claim, Self::Finish, Self::Delete];

    async fn run(self, records: &Records) -> Result<(), RecordError> {
        let id = JobId::new("job").unwrap();
        let (node, incarnation) = (NodeId::new("node").unwrap(), Incarnation::new("process").unwrap());
        let holder = Holder { node, incarnation, epoch: Epoch(1) };
        let operation = fresh::operation();
        match self {
            Self::Submit => {
                let spec = JobSpec::new("a", vec!["true".to_owned()]);
                let record = JobRecord::submitted(id, Owner::new("me").unwrap(), spec, None, AT);
                records.submit(record, &operation).await.map(drop)
            }
            Self::Claim => {
                let claimed = JobEvent::Claimed { holder, at: AT };
                records.apply(&id, &claimed, &[], &operation).await.map(drop)
            }
            Self::Finish => {
                let outcome = Outcome::Succeeded;
                let finished =
                    JobEvent::Finished { holder, at: AT, outcome, outputs: None, output_bytes: 0, log_bytes: 0 };
                records.apply(&id, &finished, &[], &operation).await.map(drop)
            }
            Self::Delete => records.delete(&id).await,
        }
    }

    fn state_after(self) -> Option<&'static str> {
        match self {
            Self::Submit => Some("queued"),
            Self::Claim => Some("running"),
            Self::Finish => Some("finished"),
            Self::Delete => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_ends_right_whichever_answer_is_lost() {
    let Some(cluster) = Cluster::start(1) else { return };
    let late = [Duration::from_millis(1), Duration::from_millis(50)].map(Fault::LoseAnswerThenApply);
    let kinds = [Fault::LoseAnswer, late[0], late[1]];
    for (number, step) in Step::ALL.into_iter().enumerate() {
        let prepare = async || {
            let store: Arc<dyn StateStore> = open(&cluster, &fresh_prefix()).await;
            for step in &Step::ALL[..number] {
                step.run(&Records::new(Arc::clone(&store))).await.unwrap();
            }
            store
        };
        let faulty = |store: &Arc<dyn StateStore>, faults: &Faults| {
            Records::new(Arc::new(FaultyState::new(Arc::clone(store), faults.clone())))
        };
        let faults = Faults::none();
        step.run(&faulty(&prepare().await, &faults)).await.unwrap();
        for operation in 1..=faults.count() {
            for kind in kinds {
                let store = prepare().await;
                let context = format!("{step:?}, operation {operation}, {kind:?}");
                match step.run(&faulty(&store, &Faults::at(operation, kind))).await {
                    Ok(()) => {}
                    // A read whose answer is lost is refused; then nothing was written.
                    Err(RecordError::Unavailable(_)) => step.run(&Records::new(Arc::clone(&store))).await.unwrap(),
                    Err(error) => panic!("{context}: {error}"),
                }
                // What is applied late finds its condition gone by then.
                tokio::time::sleep(Duration::from_millis(60)).await;
                let record = Records::new(store).get(&JobId::new("job").unwrap()).await.unwrap();
                assert_eq!(record.map(|record| record.state.name()), step.state_after(), "{context}");
            }
        }
    }
}
