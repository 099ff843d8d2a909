//! Work that must not slow the job: it runs on a thread of its own, of low priority.

use tokio::task::spawn_blocking;

/// How much nicer than the node its background work is. The I/O priority follows, see ioprio_set(2).
const NICER: i32 = 10;
const NICEST: i32 = 19;

/// Begins `work` at once; gives what came of it, or an error if the thread did not start or panicked.
pub(super) fn background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, String>> + Send {
    // A thread of the pool waits for it, so that the runtime knows of the work: a paused clock stands still meanwhile. The
    // pool's own threads keep their priority, as they could not get it back.
    let done = spawn_blocking(move || {
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            be_nice();
            work()
        });
        let thread = thread.map_err(|error| format!("no thread for checkpoints: {error}"))?;
        thread.join().map_err(|_| "the thread for checkpoints ended early".to_owned())
    });
    async move { done.await.map_err(|error| error.to_string()).flatten() }
}

/// On Linux a thread has a niceness of its own. If it cannot be had, the work is done all the same.
fn be_nice() {
    use rustix::process::{getpriority_process, setpriority_process};
    let _ = getpriority_process(None).and_then(|now| setpriority_process(None, (now + NICER).min(NICEST)));
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[tokio::test]
    async fn work_is_nicer_than_the_rest() {
        let work = || (getpriority_process(None).unwrap(), std::thread::current().name().map(str::to_owned));
        let (niceness, name) = background(work).await.unwrap();
        assert_eq!(niceness, (getpriority_process(None).unwrap() + NICER).min(NICEST));
        assert_eq!(name.as_deref(), Some("checkpoint"));
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error() {
        let result: Result<(), String> = background(|| panic!("as the test wants")).await;
        assert!(result.is_err());
    }
}
