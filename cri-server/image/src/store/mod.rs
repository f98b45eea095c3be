//! The store on disk: layers, records of images, and the trash.
//!
//! The layout is in the documentation of the crate. What is mounted from it is the business of
//! `mount`; what fills it, of `pull` and `import`.

pub(crate) mod catalog;
mod durable;
pub(crate) mod held;
pub(crate) mod layers;
pub(crate) mod lower;
pub(crate) mod record;
pub(crate) mod trash;
