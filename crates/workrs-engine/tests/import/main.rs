//! Imports of archives, whole, damaged and hostile.
#![allow(clippy::unwrap_used, reason = "a test")]

mod archives;
#[path = "../services/sink.rs"]
mod sink;

mod damage;
mod forms;
mod mutations;

use workrs_engine::image::source::{Imported, SourceError, import};

use self::sink::FolderSink;

async fn import_into(sink: &FolderSink, archive: &[u8]) -> Result<Vec<Imported>, SourceError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("archive");
    std::fs::write(&file, archive).unwrap();
    let outcome = import(&file, sink).await;
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing is written beside the archive");
    outcome
}

/// Imports what must fail before anything of it is kept.
async fn refused(archive: &[u8]) -> SourceError {
    let sink = FolderSink::new();
    let error = import_into(&sink, archive).await.unwrap_err();
    assert_eq!(sink.names(), Vec::<String>::new(), "{error}");
    assert!(!error.hint().is_empty());
    error
}
