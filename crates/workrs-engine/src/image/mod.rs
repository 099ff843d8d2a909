//! What containers run in. Nothing in here knows which engine they are containers of.
//!
//! - [`host`]: the image `host`, a frozen copy of this node's `/usr`.
//! - [`cache`]: the layers of other images, unpacked by [`unpack`].
//! - [`base`]: one of these, and how it becomes a root; [`root`] mounts layers, [`implied`] mends what they cover.
//! - [`inside`], [`user`]: what is read of a root that others filled, and made in it.
//! - [`source`]: where other images come from: registries and archives.

mod base;
mod cache;
pub(crate) mod fuzz;
mod host;
mod implied;
mod inside;
mod root;
pub mod source;
mod unpack;
mod user;

pub(crate) use self::{
    base::{Base, user_file},
    cache::{ImageLayers, LayerCache},
    host::{HostImage, Images},
    inside::Inside,
    user::User,
};
