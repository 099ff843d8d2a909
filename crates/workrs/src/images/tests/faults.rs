//! One node adds an image, another removes one that shares a layer with it, and everything goes wrong once at every place.

use std::time::Duration;

use object_store::{ObjectStore, memory::InMemory};
use workrs_store::faulty::{Fault, Faults, FaultyBlobs, FaultyState};

use super::*;

/// What is common to the nodes of a run.
struct World {
    state: Arc<dyn StateStore>,
    blobs: Arc<dyn ObjectStore>,
}

impl World {
    /// The images as a node sees them on which these faults strike.
    fn images(&self, faults: &Faults) -> Images {
        let state = FaultyState::new(Arc::clone(&self.state), faults.clone());
        let blobs = FaultyBlobs::new(Arc::clone(&self.blobs), faults.clone());
        Images::new(Arc::new(state), Blobs::new(Arc::new(blobs)))
    }

    /// Every image that the state names, also one that was put aside, has all of its parts.
    async fn check(&self, what: &str) {
        let images = self.images(&Faults::none());
        for prefix in [keys::IMAGES, keys::IMAGES_CONDEMNED] {
            for (digest, note) in images.notes(prefix).await.unwrap() {
                for part in note.parts().chain([&digest]) {
                    let name = keys::image_blob(part);
                    assert!(images.blobs.len_of(&name).await.is_ok(), "{what}: {digest} lacks {part}");
                }
            }
        }
    }
}

/// How many operations each of the two had.
struct Counts {
    adds: u64,
    removes: u64,
}

/// Adds and removes at the same time, then lets both be tried again until all is well.
async fn run(adding: Faults, removing: Faults) -> Counts {
    let what = format!("{adding:?} {removing:?}");
    let world = World { state: Arc::new(RedbStore::in_memory()), blobs: Arc::new(InMemory::new()) };
    let (old, new) = (Made::new("old", &[b"base", b"one"]), Made::new("new", &[b"base", b"two"]));
    let sound = world.images(&Faults::none());
    sound.add(&old, &me()).await.unwrap();
    sound.remove_names(&["old".to_owned()]).await.unwrap();

    let add = async {
        let images = world.images(&adding);
        let tries = async { while images.add(&new, &me()).await.is_err() {} };
        tokio::select! {
            () = tries => {}
            () = adding.crashed() => {}
        }
    };
    let remove = async {
        let images = world.images(&removing);
        let once = async { drop(images.tidy_up(later(), true).await) };
        tokio::select! {
            () = once => {}
            () = removing.crashed() => {}
        }
    };
    tokio::join!(add, remove);
    world.check(&what).await;
    // Whatever was sent late has arrived.
    tokio::time::sleep(Duration::from_secs(600)).await;
    world.check(&what).await;

    sound.add(&new, &me()).await.unwrap();
    for _ in 0..2 {
        sound.tidy_up(later(), true).await.unwrap();
        world.check(&what).await;
    }
    let group = Group { images: sound, records: Records::new(Arc::clone(&world.state)) };
    assert_eq!(group.blobs().await, sorted(&new.parts), "{what}");
    let known = group.images.list().await.unwrap();
    assert_eq!((known.len(), known[0].names.as_slice()), (1, &["new".to_owned()][..]), "{what}");
    Counts { adds: adding.count(), removes: removing.count() }
}

const FAULTS: [Fault; 7] = [
    Fault::Refuse,
    Fault::LoseAnswer,
    Fault::LoseAnswerThenApply(Duration::from_secs(20)),
    Fault::Delay(Duration::from_secs(5)),
    Fault::Delay(Duration::from_secs(100)),
    Fault::CrashBefore,
    Fault::CrashAfter,
];

#[tokio::test(start_paused = true)]
async fn one_fault_anywhere_loses_no_part() {
    let counts = run(Faults::none(), Faults::none()).await;
    assert!(counts.adds >= 10 && counts.removes >= 8, "{} {}", counts.adds, counts.removes);
    for fault in FAULTS {
        for number in 1..=counts.adds + 2 {
            run(Faults::at(number, fault), Faults::none()).await;
        }
        for number in 1..=counts.removes + 2 {
            run(Faults::none(), Faults::at(number, fault)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_order_of_the_two_loses_a_part() {
    let counts = run(Faults::none(), Faults::none()).await;
    let wait = Fault::Delay(Duration::from_secs(5));
    for add in 1..=counts.adds {
        for remove in 1..=counts.removes {
            run(Faults::at(add, Fault::Delay(Duration::from_secs(10))), Faults::at(remove, wait)).await;
        }
    }
}
