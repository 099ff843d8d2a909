//! Archives in which anything may have changed.

use std::sync::LazyLock;

use proptest::{prelude::*, sample::Index};
use workrs_engine::image::source::import;

use super::{
    FolderSink,
    archives::{self, digits_of, gzip, zstd},
};

static WHOLE: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let plain = [archives::docker_save(), archives::layout(), archives::root()];
    plain.iter().flat_map(|archive| [archive.clone(), gzip(archive), zstd(archive)]).collect()
});

/// A change of one byte, or of the length.
#[derive(Debug, Clone)]
enum Change {
    Byte(Index, u8),
    Cut(Index),
    Repeat(Index, u16),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => (any::<Index>(), any::<u16>()).prop_map(|(at, bytes)| Change::Repeat(at, bytes)),
    ]
}

fn apply(archive: &mut Vec<u8>, change: &Change) {
    if archive.is_empty() {
        return;
    }
    match change {
        Change::Byte(at, byte) => {
            let at = at.index(archive.len());
            archive[at] = *byte;
        }
        Change::Cut(at) => archive.truncate(at.index(archive.len())),
        Change::Repeat(at, bytes) => {
            let at = at.index(archive.len());
            let again = archive[at..archive.len().min(at + usize::from(*bytes))].to_vec();
            archive.splice(at..at, again);
        }
    }
}

/// Headers have check sums: without new ones hardly a change would get past them.
fn mend_check_sums(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_archives_do_no_harm(
        which in any::<Index>(),
        changes in prop::collection::vec(change(), 1..4),
        mend in any::<bool>(),
    ) {
        let mut archive = which.get(WHOLE.as_slice()).clone();
        for change in &changes {
            apply(&mut archive, change);
        }
        if mend {
            mend_check_sums(&mut archive);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &archive).unwrap();
        let sink = FolderSink::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(import(file.path(), &sink));
        for name in sink.names() {
            let content = std::fs::read(sink.path(&name)).unwrap();
            prop_assert_eq!(digits_of(&content), name, "a part that is not whole");
        }
        if outcome.is_err() {
            prop_assert_eq!(sink.names(), Vec::<String>::new(), "all is checked before anything is kept");
        }
    }
}
