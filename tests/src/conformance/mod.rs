//! What foreign test suites need: their images, and what is made of their reports.

pub mod critest;
pub mod expectations;
pub mod images;
