//! A sink of images for tests: a folder with a file for each part that came as a whole.

#![allow(dead_code, clippy::unwrap_used, reason = "not every test uses everything")]

use std::{
    io,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWriteExt};
use workrs_core::image::ImageDigest;
use workrs_engine::image::source::ImageSink;

/// Keeps parts in a folder that goes with it.
pub struct FolderSink {
    folder: tempfile::TempDir,
    /// What was put, in the order in which it was complete.
    puts: Mutex<Vec<String>>,
    unfinished: AtomicU64,
}

impl FolderSink {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), puts: Mutex::default(), unfinished: AtomicU64::new(0) }
    }

    /// What was put since the last call, in the order in which it was complete.
    pub fn take_puts(&self) -> Vec<String> {
        std::mem::take(&mut *self.puts.lock().unwrap())
    }

    /// The content of a part.
    pub fn content(&self, digest: &ImageDigest) -> Vec<u8> {
        std::fs::read(self.file(digest)).unwrap()
    }

    /// The names of all that lies there, half-made things, too.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, digest: &ImageDigest) -> PathBuf {
        self.folder.path().join(digest.digits())
    }
}

#[async_trait]
impl ImageSink for FolderSink {
    async fn has(&self, digest: &ImageDigest) -> io::Result<bool> {
        Ok(self.file(digest).exists())
    }

    async fn put(
        &self,
        digest: &ImageDigest,
        bytes: u64,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> io::Result<()> {
        let unfinished = self.folder.path().join(format!("tmp-{}", self.unfinished.fetch_add(1, Ordering::Relaxed)));
        let mut file = tokio::fs::File::create(&unfinished).await?;
        let copied = tokio::io::copy(content, &mut file).await;
        file.flush().await?;
        match copied {
            Ok(copied) => {
                assert_eq!(copied, bytes, "the length of {digest}");
                tokio::fs::rename(&unfinished, self.file(digest)).await?;
                self.puts.lock().unwrap().push(digest.to_string());
                Ok(())
            }
            Err(error) => {
                tokio::fs::remove_file(&unfinished).await?;
                Err(error)
            }
        }
    }
}
