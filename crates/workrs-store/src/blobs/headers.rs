//! How recently read blobs are stored, so that many ranges of one cost one look at its header.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OnceCell;

use super::{BlobError, seal::Seal};

/// Blobs that are remembered: the packs of a few restores at once.
const MAX_BLOBS: usize = 64;

/// A sealed blob in the store.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) seal: Arc<Seal>,
    /// Its length there.
    pub(super) len: u64,
}

impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.seal.header() == other.seal.header()
    }
}

/// What is known of one blob; `None` inside means that it is not sealed.
type Known = Arc<Option<Stored>>;

/// A bounded memory of headers. It may be outdated: whoever uses it has to forget what does not fit, and look again.
#[derive(Debug, Default)]
pub(super) struct Headers {
    /// The one used last stands at the end.
    slots: Mutex<VecDeque<(String, Arc<OnceCell<Known>>)>>,
}

impl Headers {
    /// What is known of a blob, and whether it was looked up just now. Who asks at the same time looks once.
    pub(super) async fn get<F>(&self, name: &str, look: impl FnOnce() -> F) -> Result<(Known, bool), BlobError>
    where
        F: Future<Output = Result<Option<Stored>, BlobError>>,
    {
        let slot = self.slot(name);
        let mut is_new = false;
        let known = slot
            .get_or_try_init(|| {
                is_new = true;
                let found = look();
                async { Ok(Arc::new(found.await?)) }
            })
            .await?;
        Ok((Arc::clone(known), is_new))
    }

    pub(super) fn forget(&self, name: &str) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| known != name);
    }

    fn slot(&self, name: &str) -> Arc<OnceCell<Known>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let found = slots.iter().position(|(known, _)| known == name).and_then(|index| slots.remove(index));
        let (name, slot) = found.unwrap_or_else(|| (name.to_owned(), Arc::default()));
        if slots.len() == MAX_BLOBS {
            slots.pop_front();
        }
        slots.push_back((name, Arc::clone(&slot)));
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_blobs_used_last_are_remembered() {
        let headers = Headers::default();
        let get = async |name: &str| headers.get(name, async || Ok(None)).await.unwrap().1;
        assert!(get("often").await);
        for number in 0..10 * MAX_BLOBS {
            assert!(get(&format!("{number}")).await, "{number} is new");
            assert!(!get("often").await, "after {number}");
        }
        assert_eq!(headers.slots.lock().unwrap().len(), MAX_BLOBS);
        assert!(get("0").await, "forgotten");
        let refused = headers.get("refused", async || Err(BlobError::Unavailable("no".into()))).await;
        assert_eq!(refused, Err(BlobError::Unavailable("no".into())));
        assert!(get("refused").await, "an error is not remembered");
        headers.forget("often");
        assert!(get("often").await);
    }
}
