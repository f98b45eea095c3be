//! What the benchmarks share: samples and their medians, the file that keeps the figures of a
//! subject's last run, and the page with a chart that is made of these files.
//!
//! ```text
//! bench, bench-images, bench-cri -> Samples -> Subject -> docs/benchmarks/SUBJECT.json
//!                                                          all of them -> docs/benchmarks.md, chart.svg
//! ```
//!
//! Nothing here measures.

pub mod chart;
pub mod machine;
pub mod page;
pub mod progress;
pub mod results;
pub mod samples;
