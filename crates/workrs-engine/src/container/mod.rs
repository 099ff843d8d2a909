//! What every engine with real processes needs: how a container ended, what it has mapped, and when it can be captured.

pub(crate) mod end;
pub(crate) mod mapped;
pub(crate) mod traced;
pub(crate) mod vfork;
pub(crate) mod zombies;
